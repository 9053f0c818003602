"""Rows of measurements in; tables, plots and pages out. Needs no torch."""

from collections.abc import Callable

from reports.compare import render_comparison, rich_comparison
from reports.csv import csv_text, list_figures, make_frame
from reports.latex import latex_text
from reports.markdown import report_md
from reports.page import report_html
from reports.page_table import table as html_table
from reports.pictures import pictures
from reports.plots import plot_files
from reports.reading import parse_rows, read_rows
from reports.row import Row, RowError, latest
from reports.runs import slower
from reports.table import markdown_table
from reports.terminal import rich_table
from reports.verdict import state_verdict

__all__ = [
    "Row",
    "RowError",
    "html_table",
    "latest",
    "list_figures",
    "make_frame",
    "markdown_table",
    "parse_rows",
    "read_rows",
    "render",
    "render_comparison",
    "rich_comparison",
    "rich_table",
    "slower",
    "state_verdict",
]

# What is made from rows, by file name. Plots come with them, where there is something to plot.
MAKERS: dict[str, Callable[[list[Row]], str]] = {
    "report.md": report_md,
    "rows.csv": csv_text,
    "table.tex": latex_text,
}


def render(rows: list[Row]) -> dict[str, bytes]:
    """Every file that is made from rows, by name: the same bytes from the same rows."""
    made = {name: make(rows).encode() for name, make in MAKERS.items()}
    return made | {"report.html": report_html(rows)} | plot_files(rows) | pictures(rows)
