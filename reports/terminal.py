"""The comparison table on a terminal: what fits, the most telling columns first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.columns import SHOWN, Column
from reports.results import Group, group_rows
from reports.row import Row
from reports.table import describe_failures, explain_marks, number_notes
from reports.text import wrap_heading

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

WIDE = 112  # characters; in less, a figure and its interval stand one above the other


def rich_table(rows: list[Row]) -> RenderableType:
    """Something `rich` prints: the columns that fit the terminal, without those that are empty throughout."""
    return Terminal(rows)


@dataclass(frozen=True)
class Terminal:
    rows: list[Row]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text  # plain text: a variant named `[red]` is no markup

        for group in group_rows(self.rows):
            marks, notes = number_notes(group)
            yield Text(group.title, style="bold")
            if marks:
                yield _fitting(group, marks, console, options)
            lines = [*explain_marks(group), *notes, *describe_failures(group)]
            yield Text("".join(f"{line}\n" for line in lines))


def plain_table(headers: Sequence[tuple[str, bool]], lines: Iterable[Sequence[str]]) -> Table:
    """A table of plain text under a rule.

    Args:
        headers: for each column its text, and whether it is aligned to the right.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for text, right in headers:
        table.add_column(Text(text), justify="right" if right else "left", overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    return table


def _fitting(group: Group, marks: list[str], console: Console, options: ConsoleOptions) -> Table:
    """The columns of lowest rank that fit beside one another."""
    from rich.measure import Measurement

    def fits(table: Table) -> bool:
        return Measurement.get(console, options.update(width=10_000), table).maximum <= options.max_width

    filled = [c for c in SHOWN if c.rank is not None and c.needed(group.rows) and any(map(c.show, group.results))]
    tables = [
        _table([c for c in filled if (c.rank or 0) <= most], group, marks, options.max_width < WIDE)
        for most in sorted({c.rank or 0 for c in filled} | {0}, reverse=True)
    ]
    return next((table for table in tables if fits(table)), tables[-1])


def _table(columns: list[Column], group: Group, marks: list[str], stacked: bool) -> Table:
    """Args: stacked: an interval stands below its figure."""

    shows = [c.narrow or c.show for c in columns]
    headers = []
    for c in columns:
        name = (c.header or "").partition(" [")[0] if c.narrow else c.header or ""
        headers.append(("\n".join(wrap_heading(name)), c.align == "right"))
    lines = []
    for result, mark in zip(group.results, marks, strict=True):
        cells = [show(result).replace(", ", ",") for show in shows]
        cells = [cell + mark if c.key == "variant" else cell for cell, c in zip(cells, columns, strict=True)]
        if stacked:  # broken where it reads best
            cells = [re.sub(r" (?=\[\S+,|\(\D|\[\d+\]( |$))", "\n", cell, count=1) for cell in cells]
        lines.append(cells)
    return plain_table(headers, lines)
