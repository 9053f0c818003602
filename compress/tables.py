"""How doctor's findings are printed: short tables of plain words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

import reports
from reports import Row
from reports.text import clean


@dataclass(frozen=True)
class Findings:
    """Tables and sentences that are printed as they are found, and kept for programs.

    Attributes:
        kept: by title, or by the key that stands for one that varies: of a table with headings a list of dicts, of
            one without a dict, of sentences a list.
    """

    console: Console
    kept: dict[str, Any] = field(default_factory=dict)

    def show(self, title: str, rows: Iterable[Sequence[object]], headings: Sequence[str] = (), key: str = "") -> None:
        """As the function `show`."""
        lines = [[cell if isinstance(cell, int | float) else clean(cell) for cell in row] for row in rows]
        show(self.console, title, lines, headings)
        if headings:
            names = [heading or "note" for heading in headings]
            self.kept[key or title] = [dict(zip(names, line, strict=False)) for line in lines]
        else:
            self.kept[key or title] = {str(name): value for name, value in lines}

    def tell(self, title: str, sentences: Iterable[str], key: str = "") -> None:
        """As the function `tell`."""
        lines = self.kept[key or title] = list(map(clean, sentences))
        tell(self.console, title, lines)


def show(console: Console, title: str, rows: Iterable[Sequence[object]], headings: Sequence[str] = ()) -> None:
    """One table. Cells may hold foreign text: they are shown as they are, on one line each."""
    rows = list(rows)
    if not rows:
        return
    table = Table(show_header=bool(headings))
    for index in range(max(map(len, rows))):
        table.add_column(headings[index] if headings else "", overflow="fold")
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    console.print(Text(title, "bold"))
    console.print(table)


def tell(console: Console, title: str, sentences: Iterable[str]) -> None:
    """A list of sentences under a title, one a line."""
    sentences = list(sentences)
    if sentences:
        console.print(Text(title, "bold"))
    for sentence in sentences:
        console.print(Text(f"  - {clean(sentence)}"))


def show_rows(console: Console, rows: list[Row]) -> None:
    """The verdict, and the table that it is about."""
    console.print(Text(f"{reports.state_verdict(rows)}\n", "bold"))
    console.print(reports.rich_table(rows))
