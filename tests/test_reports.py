"""Rows in, files out: figures against arithmetic, empty cells, hostile text, and the same bytes twice."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from reports import Row, RowError, latest, parse_rows, render, rich_table
from reports.markdown import finding, report_md
from reports.plot import front
from reports.row import SCHEMA, quantile
from reports.table import csv_text, groups, markdown_table
from reports.text import clean, figure

BARE: dict[str, Any] = {
    "variant": "vit", "methods": [], "runtime": "torch", "device": "cpu", "device_name": "Test CPU", "batch_size": 1,
    "threads": 2, "dataset": "digits", "seed": 0,
}  # fmt: skip
HOSTILE = "a|b\n## `x` <script>alert(1)</script> \\| [l](http://e) *s* $x_{$ \x1b[31m"


def bare(**given: Any) -> Row:
    return Row(**BARE | given)


def example_rows() -> list[Row]:
    """Three variants, two runtimes, two batch sizes, as a run on a small CPU could give."""
    correct = {"vit": 353, "avit": 351, "avit_int8": 350}
    bounds = {"vit": (0.960, 0.991), "avit": (0.953, 0.987), "avit_int8": (0.949, 0.985)}
    times = {  # ms: (batch 1, batch 32)
        ("vit", "torch"): (1.93, 21.4), ("avit", "torch"): (2.31, 15.2), ("avit_int8", "torch"): (2.28, 11.9),
        ("vit", "onnxruntime"): (0.71, 17.9), ("avit", "onnxruntime"): (0.70, 12.6),
        ("avit_int8", "onnxruntime"): (0.48, 8.1),
    }  # fmt: skip
    macs = {"vit": 54.6e6, "avit": 36.1e6, "avit_int8": 36.1e6}
    methods: dict[str, list[dict[str, Any]]] = {"vit": [], "avit": [{"name": "avit", "ponder": 5e-4, "eps": 0.01}]}
    methods["avit_int8"] = [*methods["avit"], {"name": "int8", "scheme": "dynamic"}]
    rows = []
    for (variant, runtime), pair in times.items():
        for batch_size, ms in zip((1, 32), pair, strict=True):
            dense = times["vit", runtime][0 if batch_size == 1 else 1]
            speedup = dense / ms
            padding = 1.0 if batch_size == 1 or variant == "vit" else 1.08
            row = Row(
                **BARE
                | {
                    "variant": variant, "methods": methods[variant], "runtime": runtime, "batch_size": batch_size,
                    "device_name": "Intel Xeon Platinum 8481C", "executed": "int8" if "int8" in variant else "fp32",
                    "n_images": 360, "top1": correct[variant] / 360, "top1_low": bounds[variant][0],
                    "top1_high": bounds[variant][1], "params": 812_426, "file_bytes": 912_204 if "int8" in variant
                    else 3_301_442, "macs_per_image": macs[variant] * padding,
                    "ceiling": 54.6e6 / macs[variant] / padding,
                    "latency_samples_s": [ms * (0.97 + 0.01 * (i % 7) ** 1.3) / 1e3 for i in range(60)],
                    "load_s": 0.041, "first_call_s": 0.012, "peak_memory_bytes": 311_000_000, "speedup": speedup,
                    "speedup_low": speedup * 0.98 if variant != "vit" else 1.0,
                    "speedup_high": speedup * 1.03 if variant != "vit" else 1.0,
                    "config": {"dataset": "digits", "vit": {"depth": 6, "dim": 96}}, "key": "0f3a",
                    "command": "python run_bench.py --variants vit,avit,avit_int8",
                    "environment": {"cpu": "Intel Xeon", "commit": "ada3fb2", "versions": {"torch": "2.14.1"},
                                    "time": f"2026-09-01T10:{len(rows):02d}:00Z"},
                }
            )  # fmt: skip
            if variant == "vit":
                row = replace(
                    row, macs_counters={"closed_form": 54.6e6, "fvcore": 54.6e6, "thop": 46.1e6, "torch": 54.6e6}
                )
            else:
                row = replace(
                    row, agreement=0.986, mcnemar_p=0.5 if variant == "avit" else 0.375, macs_promised=33.9e6,
                    macs_quantiles=[21.0e6, 27.5e6, 35.2e6, 45.9e6, 54.6e6],
                    tokens_per_block=[17, 17, 14.2, 9.1, 6.3, 4.4],
                )  # fmt: skip
            if runtime == "torch" and variant == "avit_int8":
                row = replace(row, executed="int8-simulated", warnings=["int8 is simulated in this runtime"])
            rows.append(row)
    why = "the exported file differs from its source by 0.3"
    return [*rows, bare(variant="tome_int8", device_name=rows[0].device_name, runtime="onnxruntime", failed=why)]


def to_html(markdown: str) -> str:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown)


def cells(row: Row) -> dict[str, str]:
    """The one line of a table as a Markdown parser sees it, by header."""
    header, body = re.findall(r"<tr>(.*?)</tr>", to_html(markdown_table([row])), re.S)
    inside = r"<t[hd][^>]*>(.*?)</t[hd]>"
    return dict(zip(re.findall(inside, header), re.findall(inside, body), strict=True))


def test_derived_figures_follow_their_definitions():
    row = bare(batch_size=8, latency_samples_s=[0.004, 0.001, 0.003, 0.002], speedup=1.3, ceiling=1.6)
    assert row.latency_s == 0.0025
    assert row.images_per_s == 8 / 0.0025
    assert row.latency_p90_s == pytest.approx(0.0037)  # position 2.7 of 0 to 3
    assert row.realised == pytest.approx(0.5)
    assert replace(row, ceiling=1.0).realised is None
    assert quantile([5.0], 0.9) == 5.0
    assert quantile([], 0.5) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(9.996, "10.0"), (0.01234, "0.0123"), (1234.5, "1,234"), (0.0, "0"), (float("inf"), ""), (None, "")],
)
def test_three_significant_digits(value: float | None, text: str):
    assert figure(value) == text


def test_what_was_not_measured_is_empty_everywhere():
    given = {"variant": "vit", "runtime": "torch", "batch": "1"}
    assert {name: text for name, text in cells(bare()).items() if text} == given
    broken = bare(top1=float("nan"), speedup=float("inf"), speedup_low=float("-inf"), speedup_high=float("nan"))
    assert {name: text for name, text in cells(broken).items() if text} == given
    record = pd.read_csv(io.StringIO(csv_text([broken]))).iloc[0].dropna().to_dict()
    assert set(record) == set(BARE) - {"methods"} | {"schema"}
    assert set(render([broken])) == {"report.md", "rows.csv"}
    assert "pareto" not in report_md([broken])


def test_numbers_as_they_are_read():
    row = bare(variant="avit", top1=0.981, top1_low=0.96, top1_high=0.991, n_images=360, params=812_426)
    row = replace(row, speedup=1.02, speedup_low=0.99, speedup_high=1.05, ceiling=1.5, file_bytes=3_301_442)
    shown = cells(row)
    assert shown["top-1 % [95 %]"] == "98.1 [96.0, 99.1]"
    assert shown["speed-up [95 %]"] == "~1.02 [0.99, 1.05]"
    assert (shown["realised %"], shown["params M"], shown["file MB"]) == ("~4", "0.812", "3.30")
    assert cells(replace(row, speedup_low=1.001))["speed-up [95 %]"] == "1.02 [1.00, 1.05]"
    assert cells(replace(row, ceiling=1.004))["realised %"] == ""  # where the ceiling reads 1.00
    assert cells(replace(row, agreement=1.0))["agreement %"] == "100.0"
    assert cells(replace(row, variant="vit", agreement=1.0))["agreement %"] == ""


def test_the_findings_name_the_fastest_and_who_saves_nothing():
    one = [row for row in example_rows() if row.batch_size == 1]
    text = finding(one)
    assert "smallest latency is that of **avit_int8** in onnxruntime, 0.4" in text
    assert "No saving here: **avit** in torch (0.84 [0.82, 0.86], not faster)" in text
    assert "**avit** in onnxruntime (~1.01 [0.99, 1.04], no clear difference)" in text
    page = report_md(example_rows())
    assert "not distinguishable from the baseline (p = 0.38)" in page
    assert "| -16 |" in re.sub(" +", " ", page)  # thop: 46.1 / 54.6 - 1


def test_a_failed_row_appears_with_its_reason():
    text = markdown_table(example_rows())
    assert "| tome_int8 (failed) [2] " in text
    assert "- [2] failed: the exported file differs from its source by 0.3" in text
    assert "- [1] int8 is simulated in this runtime" in text
    early = bare(variant="tome", device_name="", device="", batch_size=32, failed="no such file")
    assert [len(group) for group in groups([early, *example_rows()])] == [7, 7]  # not in a table of its own


def page_with(text: str) -> Row:
    """A row that carries the text wherever something foreign can stand."""
    return replace(
        example_rows()[2], variant=text, runtime=text, dataset=text, device=text, device_name=text, executed=text,
        methods=[{"name": text, "x": text}], warnings=[text], failed=text, command=text, config={text: text},
        environment={text: {text: text}}, macs_counters={text: 1.0},
    )  # fmt: skip


def test_hostile_text_changes_no_structure_and_reaches_no_terminal():
    def tags(row: Row) -> list[str]:
        return re.findall(r"</?[a-z]\w*", to_html(report_md([row])))

    evil = page_with(HOSTILE)
    assert tags(evil) == tags(page_with("plain"))
    assert len(tags(evil)) > 100
    assert unescape(cells(evil)["runtime"]) == clean(HOSTILE)  # all of it is there to see, in its own cell
    assert csv_text([evil]).count("\n") == 2
    out = io.StringIO()
    Console(file=out, width=300).print(rich_table([evil, bare(variant="[red]x[/red]")]))
    assert "[red]x[/red]" in out.getvalue()
    assert "\x1b" not in report_md([evil]) + csv_text([evil]) + out.getvalue()
    assert b"<script" not in render([evil])["pareto.svg"]


def test_csv_gives_back_the_raw_values():
    rows = example_rows()
    frame = pd.read_csv(io.StringIO(csv_text(rows)), dtype=str)
    assert len(frame) == len(rows)
    for name in ("top1", "latency_s", "latency_p90_s", "images_per_s", "realised", "speedup_low", "peak_memory_bytes"):
        back = [None if pd.isna(value) else float(value) for value in frame[name]]
        assert back == [getattr(row, name) for row in rows]
    assert list(frame["environment_commit"][:2]) == ["ada3fb2", "ada3fb2"]
    assert "environment_versions" not in frame
    assert ",3301442," in csv_text(rows)  # not 3301442.0, though one row has none


def test_rows_survive_json_and_a_cut_off_last_line():
    rows = example_rows()
    text = "".join(row.to_json() + "\n" for row in rows)
    assert parse_rows(text, "rows.jsonl") == rows
    assert parse_rows(text[:-20], "rows.jsonl") == rows[:-1]
    with pytest.raises(RowError, match=r"rows\.jsonl:1 is not a row"):
        parse_rows(text[20:], "rows.jsonl")
    newer = json.loads(rows[0].to_json()) | {"schema": SCHEMA + 1}
    with pytest.raises(RowError, match=r"rows\.jsonl:1 .*newer version"):
        parse_rows(json.dumps(newer) + "\n", "rows.jsonl")
    unknown = json.loads(rows[0].to_json()) | {"added_later": 1}
    assert parse_rows(json.dumps(unknown), "rows.jsonl") == rows[:1]


def test_rows_of_the_first_version_are_read_and_reported():
    path = Path(__file__).parent / "files" / "rows_of_version_0.1.0.jsonl"
    rows = parse_rows(path.read_text(), path.name)
    assert [row.schema for row in rows] == [1] * 10
    assert {row.variant for row in rows} == {"vit", "avit", "avit_int8"}
    assert rows[0].latency_s == sorted(rows[0].latency_samples_s)[14] / 2 + sorted(rows[0].latency_samples_s)[15] / 2
    assert (rows[0].overall, rows[0].examples, rows[0].calls_per_round) == (None, None, None)
    page = render(rows)["report.md"].decode()
    assert "98.6 [96.8, 99.4]" in page


def test_the_latest_row_counts():
    old, new = bare(top1=0.5), bare(top1=0.6)
    other = bare(batch_size=2)
    assert latest([old, other, new]) == [new, other]
    failed = bare(runtime="auto", failed="out of memory")
    assert latest([failed, old]) == [old]
    assert latest([old, failed]) == [old, failed]


def test_the_front_holds_what_no_other_point_beats():
    assert front([(3, 9), (1, 5), (2, 4), (2, 7), (4, 9)]) == [(1, 5), (2, 7), (3, 9)]


def test_rendering_twice_gives_the_same_bytes():
    first, second = render(example_rows()), render(example_rows())
    assert set(first) == {"report.md", "rows.csv", "pareto.png", "pareto.svg"}
    assert first == second
    assert first["pareto.png"].startswith(b"\x89PNG")


def test_importing_reports_is_light():
    heavy = "torch", "pandas", "matplotlib", "rich", "numpy"
    code = f"import sys, reports; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
