"""Rows of measurements in; tables, plots and pages out. Needs no torch."""

from reports.markdown import report_md
from reports.plot import pareto_png_svg, plotted
from reports.row import Row, RowError, latest, parse_rows
from reports.table import csv_text, markdown_table, rich_table

__all__ = ["Row", "RowError", "latest", "markdown_table", "parse_rows", "render", "rich_table"]


def render(rows: list[Row]) -> dict[str, bytes]:
    """Every file that is made from rows, by name: the same bytes from the same rows.

    `pareto.png` and `pareto.svg` are missing where no row has both a latency and an accuracy.
    """
    files = {"report.md": report_md(rows).encode(), "rows.csv": csv_text(rows).encode()}
    if plotted(rows):
        png, svg = pareto_png_svg(rows)
        files |= {"pareto.png": png, "pareto.svg": svg.encode()}
    return files
