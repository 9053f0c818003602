"""The comparison table on a terminal: folded where it is narrow, the figures that decide first; nothing is cut off."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.columns import SHOWN, Column
from reports.results import Group, group_rows
from reports.row import Row
from reports.table import describe_failures, explain_marks, number_notes
from reports.text import clean, wrap_heading

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table
    from rich.text import Text

WIDE = 112  # characters; in less, a figure always stands above its interval
NARROW = 10  # characters of a heading there
NAMES = 2  # columns that say which row it is: variant and runtime
STACKED = re.compile(r" (?=\[\S+,|\(\D|\(\d[\d.,]*x\)|\[\d+\]( |$))")  # where a cell is broken in two


def rich_table(rows: list[Row]) -> RenderableType:
    """Something `rich` prints: all columns, those that do not fit the terminal in further tables below.

    Columns that are empty throughout are left out.
    """
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
                yield from _fold(group, marks, console, options)
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


def _fold(group: Group, marks: list[str], console: Console, options: ConsoleOptions) -> Iterator[Table | Text]:
    """Tables that fit one below the other: the figures that decide first, then the rest of the same rows."""
    from rich.measure import Measurement
    from rich.text import Text

    def fits(table: Table) -> bool:
        return Measurement.get(console, options.update(width=10_000), table).maximum <= options.max_width

    filled = [c for c in SHOWN if c.rank is not None and c.needed(group.rows) and any(map(c.show, group.results))]
    names, waiting = filled[:NAMES], sorted(filled[NAMES:], key=lambda c: c.rank or 0)
    deciding = [c for c in waiting if not c.rank]
    longest = None
    if options.max_width < WIDE or not fits(_table([*names, *deciding], group, marks, longest)):
        longest = max(options.max_width // 4, NARROW)
        if not fits(_table([*names, *deciding], group, marks, longest)):
            names = names[:1]  # the runtime stands below the variant
    while True:
        shown = waiting[:1]
        for c in waiting[1:]:
            if fits(_table([*names, *shown, c], group, marks, longest)):
                shown.append(c)
        yield _table([c for c in filled if c in names or c in shown], group, marks, longest)
        waiting = [c for c in waiting if c not in shown]
        marks = [""] * len(marks)  # are in the first table
        if not waiting:
            return
        yield Text()


def _table(columns: list[Column], group: Group, marks: list[str], longest: int | None) -> Table:
    """One table of some columns.

    Args:
        longest: characters of a line of a name where room is scarce: an interval then stands below its figure, and a
            runtime that has no column below its variant.
    """
    headers = []
    for c in columns:
        name = (c.header or "").partition(" [")[0] if c.narrow else c.header or ""
        headers.append(("\n".join(wrap_heading(name, NARROW if longest else 12)), c.align == "right"))
    lines = []
    for result, mark in zip(group.results, marks, strict=True):
        cells = [(c.narrow or c.show)(result).replace(", ", ",") for c in columns]
        if longest:
            cells = [STACKED.sub("\n", cell, count=1) for cell in cells]
            runtime = "" if any(c.key == "runtime" for c in columns) else f"\nin {clean(result.row.runtime)}"
            parts = [line for part in cells[0].split("\n") for line in textwrap.wrap(part, longest)]
            cells[0] = "\n".join(parts) + mark + runtime
        else:
            cells[0] += mark
        lines.append(cells)
    return plain_table(headers, lines)
