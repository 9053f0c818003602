"""Rows in, files out: figures against arithmetic, empty cells, hostile text, and the same bytes twice."""

import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from made_rows import BARE, HOSTILE, bare, cells, example_rows, page_with, to_html
from rich.console import Console

from reports import Row, RowError, latest, parse_rows, render, rich_table
from reports.columns import SHOWN
from reports.csv import csv_text
from reports.markdown import report_md
from reports.plots import PLOTS
from reports.plots.pareto import front
from reports.results import relate_rows
from reports.row import SCHEMA, quantile
from reports.terminal import WIDE
from reports.text import clean, figure

KINDS = "png", "svg"


def test_derived_figures_follow_their_definitions():
    row = bare(
        batch_size=8, latency_samples_s=[0.004, 0.001, 0.003, 0.002], speedup=1.3, ceiling=1.6, dtype="fp32"
    )  # fmt: skip
    assert row.latency_s == 0.0025
    assert row.images_per_s == 8 / 0.0025
    assert row.latency_p90_s == pytest.approx(0.0037)  # position 2.7 of 0 to 3
    assert row.realised == pytest.approx(0.5)
    assert replace(row, ceiling=1.004).realised is None  # which reads 1.00
    assert replace(row, dtype="int8").realised is None  # integer products have another ceiling
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
    assert set(render([broken])) == {"report.md", "report.html", "rows.csv", "table.tex"}
    assert ".svg" not in report_md([broken])
    assert set(render([])) == {"report.md", "report.html", "rows.csv", "table.tex"}


def test_numbers_as_they_are_read():
    row = bare(variant="avit", top1=0.981, top1_low=0.96, top1_high=0.991, n_images=360, params=812_426)
    row = replace(
        row, speedup=1.02, speedup_low=0.99, speedup_high=1.05, ceiling=1.5, file_bytes=3_301_442, dtype="fp32"
    )
    shown = cells(row)
    assert shown["top-1 % [95 %]"] == "98.1 [96.0, 99.1]"
    assert shown["vs dense, same engine [95 %]"] == "~1.02 [0.99, 1.05]"
    assert (shown["realised"], shown["params M"], shown["file MB"]) == ("~1.02x of 1.50x possible", "0.812", "3.30")
    assert cells(replace(row, speedup_low=1.001))["vs dense, same engine [95 %]"] == "1.02 [1.00, 1.05]"
    assert "realised" not in cells(replace(row, ceiling=1.004))  # where the ceiling reads 1.00
    assert "realised" not in cells(replace(row, dtype="int8"))
    assert cells(replace(row, recipe="dynamic by token"))["variant"] == "avit (dynamic by token)"
    changed = replace(row, top1_change=-0.021, mcnemar_p=0.003)
    assert cells(changed)["top-1 change"] == "-2.1 *"
    assert cells(replace(changed, mcnemar_p=0.3))["top-1 change"] == "-2.1"
    assert cells(replace(row, agreement=1.0))["agreement %"] == "100.0"
    assert cells(replace(row, variant="vit", agreement=1.0))["agreement %"] == ""


def test_hostile_text_changes_no_structure_and_reaches_no_terminal():
    def tags(row: Row) -> list[str]:
        return re.findall(r"</?[a-z]\w*", to_html(report_md([row])))

    evil = page_with(HOSTILE)
    assert tags(evil) == tags(page_with("plain"))
    assert len(tags(evil)) > 100
    assert unescape(cells(replace(evil, failed=None))["runtime"]) == clean(
        HOSTILE
    )  # all of it is there to see, in its own cell
    assert csv_text([evil]).count("\n") == 2
    formulas = [bare(variant=f"{sign}1+1", dataset=f"{sign}A1") for sign in "=+-@"]
    cells_read = [cell for line in csv.reader(io.StringIO(csv_text(formulas))) for cell in line]
    assert {"'=1+1", "'@A1"} <= set(cells_read)
    assert not [cell for cell in cells_read if cell.startswith(("=", "+", "-", "@"))]
    out = io.StringIO()
    Console(file=out, width=300).print(rich_table([evil, bare(variant="[red]x[/red]")]))
    assert "[red]x[/red]" in out.getvalue()
    assert "\x1b" not in report_md([evil]) + csv_text([evil]) + out.getvalue()
    files = render([evil, *(replace(evil, failed=None, variant=name) for name in (evil.variant, "plain"))])
    assert {f"{name}.svg" for name in PLOTS} <= set(files)
    for name, content in files.items():
        if name.endswith(".svg"):
            assert set(re.findall(rb"</?script|onload|alert\(1\)<", content)) == set(), name
            ElementTree.fromstring(content)


def fitted_rows() -> list[Row]:
    """Rows with every column of a terminal, and names as long as those of `quantize`."""
    rows = [replace(row, overall=12.25, overall_low=10.5, overall_high=13.75) for row in example_rows()]
    return [
        replace(row, recipe="static + bf16, 12 layers in float", top1_change=-0.0125, mcnemar_p=0.25)
        if row.variant == "avit_int8"
        else row
        for row in rows
    ]


@pytest.mark.parametrize("width", [60, 80, 100, WIDE, 135, 240])
def test_a_narrow_terminal_folds_the_table_and_cuts_nothing(width: int) -> None:
    rows = fitted_rows()
    out = io.StringIO()
    Console(file=out, width=width).print(rich_table(rows))
    text = out.getvalue()
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    words = text.split()
    for result in relate_rows([row for row in rows if not row.failed]):
        for column in SHOWN:
            if column.rank is not None and column.needed(rows):
                shown = (column.narrow or column.show)(result).replace(", ", ",").split()
                assert set(shown) <= set(words) or column.align == "left", (column.key, shown)
    first = text[: text.index("───")].replace("\n", " ")
    headings = ("vs PyTorch", "latency", "top-1", "change", "file MB")
    assert [name for name in headings if name in " ".join(first.split())] == [*headings[: 4 if width < 80 else 5]]


def test_a_pipe_shows_one_line_for_each_row() -> None:
    rows = [row for row in fitted_rows() if row.batch_size == 1 and not row.failed]
    out = io.StringIO()
    Console(file=out, width=240).print(rich_table(rows))
    assert sum(" torch " in line or " onnxruntime " in line for line in out.getvalue().splitlines()) == len(rows)
    assert all(name in out.getvalue() for name in ("vs dense,", "images/s", "MMACs/image", "peak MB"))


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
    assert {(row.variant, row.base, row.dtype) for row in rows} == {
        ("vit", "vit", "fp32"), ("avit", "vit", "fp32"), ("avit_int8", "vit", "int8"),
    }  # fmt: skip
    assert rows[0].latency_s == sorted(rows[0].latency_samples_s)[14] / 2 + sorted(rows[0].latency_samples_s)[15] / 2
    assert (rows[0].overall, rows[0].examples, rows[0].calls_per_round) == (None, None, None)
    files = render(rows)
    page = files["report.md"].decode()
    assert "98.6 [96.8, 99.4]" in page
    assert {name.removesuffix(".svg") for name in files if name.endswith(".svg")} == {
        "pareto", "pareto_cost", "latency", "realised", "tokens",
    }  # fmt: skip
    assert all(f"({name})" in page for name in files if name.endswith(".svg"))
    for absent in ("overall", "rounds", "Class by class", "Break-even", "Easy and hard", "Integer kernels"):
        assert absent not in page


def test_the_latest_row_counts():
    old, new = bare(top1=0.5), bare(top1=0.6)
    other = bare(batch_size=2)
    assert latest([old, other, new]) == [new, other]
    failed = bare(runtime="auto", failed="out of memory")
    assert latest([failed, old]) == [old]
    assert latest([old, failed]) == [old, failed]
    recipes = [replace(old, recipe="static"), replace(failed, recipe="dynamic", runtime="torch"), old]
    assert latest([*recipes, replace(old, recipe="static", top1=0.7)]) == [replace(recipes[0], top1=0.7), *recipes[1:]]


def test_the_front_holds_what_no_other_point_beats():
    assert front([(3, 9), (1, 5), (2, 4), (2, 7), (4, 9)]) == [(1, 5), (2, 7), (3, 9)]


def test_rendering_twice_gives_the_same_bytes():
    first, second = render(example_rows()), render(example_rows())
    pages = {"report.md", "report.html", "rows.csv", "table.tex"}
    assert set(first) == pages | {f"{n}.{kind}" for n in PLOTS for kind in KINDS}
    assert first == second
    assert all(content.startswith(b"\x89PNG") for name, content in first.items() if name.endswith(".png"))


def test_a_plot_without_data_is_an_error():
    with pytest.raises(ValueError, match="no row has what this plot needs"):
        PLOTS["pareto"]([bare()])


def test_importing_reports_is_light():
    heavy = "torch", "pandas", "matplotlib", "rich", "numpy", "scipy"
    code = f"import sys, reports; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": None}, "methods: Input should be a valid list"),
        ({"variant": ["vit"]}, "variant: Input should be a valid string"),
        ({"batch_size": 10**400}, "a number of 401 digits"),
        ({"top1": "many"}, "top1: Input should be a valid number"),
    ],
)
def test_rows_of_others_are_checked_and_the_line_is_named(changes: dict[str, Any], said: str) -> None:
    whole = bare().to_json()
    damaged = json.dumps({**json.loads(whole), **changes})
    with pytest.raises(RowError) as caught:
        parse_rows(f"{whole}\n{damaged}\n", "theirs.jsonl")
    assert str(caught.value).startswith("theirs.jsonl:2 is not a row of measurements (")
    assert said in str(caught.value)
    with pytest.raises(RowError, match="nested too deeply"):
        parse_rows("[" * 100_000 + "\n", "theirs.jsonl")


def test_figures_that_are_no_numbers_are_kept_as_not_measured() -> None:
    row = replace(bare(), sqnr_db=float("inf"), latency_samples_s=[0.1], macs_counters={"torch": float("nan")})
    (read,) = parse_rows(f"{row.to_json()}\n", "rows.jsonl")
    assert (read.sqnr_db, read.macs_counters, read.latency_samples_s) == (None, {}, [0.1])
