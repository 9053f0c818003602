"""The comparison table on a terminal: what fits, the most telling columns first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.row import Row
from reports.table import SHOWN, Column, conditions, footnotes, groups

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

        for group in groups(self.rows):
            marks, notes = footnotes(group)
            yield Text(conditions(group[0]), style="bold")
            yield _fitting(group, marks, console, options)
            yield Text("".join(f"[{n}] {note}\n" for n, note in enumerate(notes, 1)))


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


def _fitting(group: list[Row], marks: list[str], console: Console, options: ConsoleOptions) -> Table:
    """The columns of lowest rank that fit beside one another."""
    from rich.measure import Measurement

    def fits(table: Table) -> bool:
        return Measurement.get(console, options.update(width=10_000), table).maximum <= options.max_width

    filled = [c for c in SHOWN if c.rank is not None and c.needed(group) and any(c.show(row) for row in group)]
    tables = [
        _table([c for c in filled if (c.rank or 0) <= most], group, marks, options.max_width < WIDE)
        for most in sorted({c.rank or 0 for c in filled} | {0}, reverse=True)
    ]
    return next((table for table in tables if fits(table)), tables[-1])


def _table(columns: list[Column], group: list[Row], marks: list[str], stacked: bool) -> Table:
    names = [(c.header or "").partition(" [")[0] if c.narrow else c.header or "" for c in columns]
    headers = [
        (re.sub("[ /]", "\n", name, count=1), c.align == "right") for name, c in zip(names, columns, strict=True)
    ]
    lines = []
    for row, mark in zip(group, marks, strict=True):
        cells = [(c.narrow or c.show)(row).replace(", ", ",") for c in columns]
        cells = [cell + mark if c.key == "variant" else cell for cell, c in zip(cells, columns, strict=True)]
        if stacked:  # broken where it reads best
            cells = [re.sub(r" (?=\[\S+,|\(failed)", "\n", cell) for cell in cells]
        lines.append(cells)
    return plain_table(headers, lines)
