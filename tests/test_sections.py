"""What the report says: findings, break-even, counters, classes, and the table as LaTeX."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_rows import bare, cells, example_rows, page_with

from reports import Row
from reports.classes import confused, recalls
from reports.findings import compare_plain, describe_best
from reports.latex import latex_escape, latex_text
from reports.markdown import report_md
from reports.results import Group, group_rows
from reports.table import markdown_table
from reports.text import plus_minus
from reports.timing import break_even, difficulty


def test_a_latency_stands_with_half_of_its_interquartile_range():
    row = bare(latency_samples_s=[0.0119, 0.0121, 0.0123, 0.0127, 0.0131])  # quartiles 12.1 and 12.7 ms
    assert cells(row)["latency ms"] == "12.3 ± 0.3"
    assert cells(bare(latency_samples_s=[0.0123]))["latency ms"] == "12.3"  # one sample has no spread
    assert plus_minus(103.0, 0.042) == "103 ± 0.04"  # never a spread that reads 0
    assert plus_minus(2.0, 0.0) == "2.00 ± 0.00"


def test_p99_is_shown_from_a_thousand_samples_on():
    few = bare(latency_samples_s=[0.001] * 999)
    assert "p99" not in report_md([few])
    many = replace(few, latency_samples_s=[i / 1e6 for i in range(1001)], calls_per_round=7)
    line = next(line for line in report_md([many]).splitlines() if "1,001" in line)
    assert [cell.strip() for cell in line.split("|")][4:-1] == [
        "2", "1", "1,001", "143", "0.100", "0.500", "0.900", "0.990", "0.500", "", "",
    ][: len(line.split("|")) - 5]  # fmt: skip


def test_overall_is_against_torch_whatever_the_runtime_and_hidden_where_no_row_has_it():
    row = bare(runtime="onnxruntime", speedup=1.0, speedup_low=1.0, speedup_high=1.0)
    assert "vs PyTorch fp32 [95 %]" not in cells(row)
    row = replace(row, overall=1.3, overall_low=0.99, overall_high=1.6)
    assert cells(row)["vs dense, same engine [95 %]"] == "1.00"
    assert cells(row)["vs PyTorch fp32 [95 %]"] == "~1.30 [0.99, 1.60]"
    assert "**vs PyTorch fp32" in report_md([row])
    assert "**vs PyTorch fp32" not in report_md([bare()])


def test_the_findings_name_the_fastest_and_who_saves_nothing():
    one = [row for row in example_rows() if row.batch_size == 1]
    text = describe_best(Group(one), "vit")
    assert "without a statistically significant loss of top-1 is **avit_int8** in onnxruntime: 0.4" in text
    assert "Not faster in their own engine: **avit** in torch (0.84 [0.82, 0.86], slower)" in text
    assert "**avit** in onnxruntime (~1.01 [0.99, 1.04], no significant difference)" in text
    page = report_md(example_rows())
    assert "no significant difference (p = 0.38)" in page
    assert "| -16 |" in re.sub(" +", " ", page)  # thop: 46.1 / 54.6 - 1


def compared(variant: str, ms: float, overall: float, top1: float, **given: Any) -> Row:
    """A row whose intervals reach 2 % and 1 point to both sides."""
    bounds = {"overall_low": 0.98 * overall, "overall_high": 1.02 * overall}
    bounds |= {"top1_low": top1 - 0.01, "top1_high": top1 + 0.01}
    return bare(
        variant=variant, latency_samples_s=[ms / 1e3], overall=overall, top1=top1, n_images=1000, **given, **bounds
    )


def test_the_findings_hold_compressed_models_against_plain_ones():
    group = [
        compared("vit", 10, 1.0, 0.720),
        compared("vit", 8, 1.25, 0.720, runtime="torch.compile"),
        compared("bf16", 5, 2.0, 0.719),
        compared("narrow", 7, 1.43, 0.690, macs_per_image=52e6),
        compared("avit", 9, 1.11, 0.722),
        compared("avit", 7.1, 1.41, 0.722, runtime="onnxruntime"),  # its fastest
        compared("avit_int8", 4, 2.5, 0.650, runtime="onnxruntime"),
    ]

    def plain(rows: list[Row], variant: str, runtime: str | None = None) -> str:
        return compare_plain(Group(rows), "vit", (variant, runtime))

    assert plain(group, "narrow") == (
        "Against a plain narrower ViT, trained the same way (**narrow** in torch, 7.00 ms, top-1 69.0 %, 52.0 MMACs): "
        "faster **avit_int8** in onnxruntime (4.00 ms, top-1 65.0 %, 7.0 points below `vit` at p < 0.001); "
        "no significant difference in time **avit** in onnxruntime (7.10 ms, top-1 72.2 %)."
    )
    assert "slower **avit** in onnxruntime (7.10 ms, top-1 72.2 %)" in plain(group, "bf16")
    assert plain(group, "vit", "torch.compile").startswith("Against the dense model, compiled (**vit** in torch.comp")
    assert plain(group[:1] + group[4:], "narrow") == ""
    assert "  - Against the dense model in bfloat16" in report_md(group)
    unknown = [replace(row, overall=None) for row in group]  # different runtimes: nothing to compare times by
    assert "faster" not in plain(unknown, "bf16")


def test_break_even_is_the_smallest_batch_from_which_on_it_wins():
    def at(lows: dict[int, float], variant: str = "avit") -> list[Row]:
        return [
            bare(variant=variant, batch_size=b, speedup=low + 0.1, speedup_low=low, speedup_high=low + 0.2)
            for b, low in lows.items()
        ]

    def wins(lows: dict[int, float]) -> str:
        line = next(line for line in break_even(at(lows)).splitlines() if line.startswith("| avit"))
        return line.split("|")[-2].strip()

    assert wins({1: 0.7, 8: 1.01, 32: 1.2}) == "from batch 8 on"
    assert wins({32: 1.2, 1: 1.01, 8: 1.0}) == "from batch 32 on"  # the order of rows does not matter; 1.0 is no win
    assert wins({1: 1.1, 8: 1.2, 32: 1.0}) == "never up to batch 32 here"
    assert wins({1: 1.1, 8: 1.2, 32: 1.3}) == "at every batch here"
    assert break_even(at({1: 0.7, 8: 1.1})) == ""
    assert break_even(at({1: 1.0, 8: 1.0, 32: 1.0}, "vit")) == ""
    assert "| 0.80 [0.70, 0.90] |" in break_even(at({1: 0.7, 8: 1.01, 32: 1.2}))


def test_easy_and_hard_images_stand_with_their_ratio():
    text = difficulty([bare(variant="avit", easy_samples_s=[0.001, 0.002, 0.009], hard_samples_s=[0.003])])
    assert re.search(r"\|\s+2.00 \|\s+3.00 \|\s+1.50 \|", text)
    assert difficulty([bare(hard_samples_s=[0.1])]) == ""


def test_each_variant_is_counted_against_its_own_closed_form():
    counted = [
        bare(macs_counters={"closed form": 100.0, "fvcore": 100.0}),
        bare(variant="tome", macs_counters={"closed form": 50.0, "fvcore": 51.0}),
    ]
    page = re.sub(" +", " ", report_md([*counted, counted[0]]))
    assert "| digits | vit | 100 | 0 |\n| digits | tome | 50 | +2 |\n\n" in page


def test_classes_and_integer_kernels_have_their_tables():
    row = bare(classes=["a", "b|c"], class_recall=[0.5, None], confusion=[[1, 1], [0, 0]], integer_share=0.875)
    page = re.sub(" +", " ", report_md([row, replace(row, variant="avit", class_recall=[1.0, None])]))
    assert "| class | images | vit % | avit % |" in page
    assert "| a | 2 | 50.0 | 100.0 |\n| b&#124;c | 0 | | |" in page
    assert "| digits | vit | torch | cpu | | 87.5 |" in page


def test_of_many_classes_those_that_differ_most_are_shown_in_their_order():
    recall = [0.5] * 100
    other = [0.5 + (0.1 + i / 1000 if i % 3 == 0 else 0) for i in range(100)]  # 34 differ, the later the more
    (found,) = recalls([bare(class_recall=recall), bare(variant="avit", class_recall=other), bare(runtime="other",
        class_recall=[0.0] * 100)])  # fmt: skip
    assert found.classes == [f"class {i}" for i in range(12, 100, 3)]
    assert (found.left_out, list(found.models)) == (70, ["vit", "avit"])
    (alone,) = recalls([bare(class_recall=[i / 100 for i in range(100)])])
    assert alone.classes == [f"class {i}" for i in range(30)]  # known least


def test_a_matrix_is_shown_for_four_variants_the_baseline_first():
    square: dict[str, Any] = {"classes": ["a", "b"], "confusion": [[1, 0], [0, 1]]}
    rows = [bare(variant=name, **square) for name in ("a", "a", "b", "c", "d", "vit")]
    assert [row.variant for row in confused(rows)] == ["vit", "a", "b", "c"]
    assert confused([bare(classes=["a", "b"], confusion=[[1, 0]])]) == []


def test_a_failed_row_appears_with_its_reason():
    text = markdown_table(example_rows())
    assert "| tome_int8" not in text
    assert "- tome_int8 in onnxruntime failed: the exported file differs from its source by 0.3" in text
    assert "- [1] int8 is simulated in this runtime" in text
    early = bare(variant="tome", device_name="", device="", batch_size=32, failed="no such file")
    assert [len(group.rows) for group in group_rows([early, *example_rows()])] == [7, 7]  # not in a table of its own


SPECIAL = r"\ { } $ & # _ % ^ ~ < > | [ ] * -- ``x'' ?` ,, \input{/etc/passwd} é ß 漢 😀"


def test_latex_shows_every_special_character_as_itself():
    escaped = latex_escape(SPECIAL)
    assert escaped.startswith(
        r"\textbackslash{} \{ \} \$ \& \# \_ \% \textasciicircum{} \textasciitilde{} \textless{} \textgreater{} "
        r"\textbar{} [ ] * -{}- `{}`x'{}' ?{}` ,{}, \textbackslash{}input\{/etc/passwd\} é "
    )
    assert escaped.endswith(r"\texttt{U+00DF} \texttt{U+6F22} \texttt{U+1F600}")
    row = bare(variant="[x]", speedup=0.8, speedup_low=0.7, speedup_high=1.1, ceiling=1.5, dtype="fp32")
    line = next(line for line in latex_text([row]).splitlines() if "[x]" in line)
    assert line == r"{}[x] & torch & $\sim$0.80 {\tiny [0.70, 1.10]} & $\sim$0.80x of 1.50x \\"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_the_latex_table_compiles(tmp_path: Path):
    evil = page_with(SPECIAL)
    rows = [*example_rows(), evil, replace(evil, variant="*", failed=None), replace(evil, variant="[", failed=None)]
    table = latex_text(rows)
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + table + r"\end{document}"
    (tmp_path / "page.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in done.stdout
