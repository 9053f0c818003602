"""How doctor's findings are printed: short tables of plain words."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

import reports
from reports import Row
from reports.text import clean


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
