"""The comparison on `report.html`: a table that its script sorts and filters, and what stands below it."""

import html
import math
import re

from reports.columns import COLUMNS, Column
from reports.results import Group, Result, group_rows
from reports.row import Row
from reports.table import BEST, describe_failures, explain_marks, list_notes, mark_result
from reports.text import clean

PLACE = ("dataset", "device", "device_name", "threads")  # headless columns that tell rows apart on this page

ASIDE = re.compile(r" (\[[^]]*\]|\([^)]*\)|± [^ ]+|of [^ ]+)(?=$| possible$)")  # what stands behind a figure


def table(rows: list[Row]) -> str:
    """All rows with figures in one table; each cell keeps its raw value, by which it is sorted. Failures below."""
    groups = group_rows(rows)
    columns = table_columns(groups)
    heads = (
        f'<th scope="col" class="{side(c)}" data-key="{c.key}" title="{html.escape(plain(c.meaning))}">'
        f'<button type="button">{fold(heading(c))}</button></th>'
        for c in columns
    )
    lines = "".join(table_line(result, group, columns) for group in groups for result in group.results)
    return f"<table><thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n{lines}</tbody></table>"


def below_table(rows: list[Row]) -> str:
    """What the star means, and a sentence for each failure."""
    groups = group_rows(rows)
    stars = dict.fromkeys(line for group in groups for line in explain_marks(group))
    failures = [
        f"<li>{html.escape(f'{group.title}: {line}')}</li>" for group in groups for line in describe_failures(group)
    ]
    legend = "".join(f'<p class="caption">{html.escape(star)}.</p>' for star in stars)
    return legend + f'<ul class="failures">{"".join(failures)}</ul>' * bool(failures)


def table_columns(groups: list[Group]) -> list[Column]:
    """Those in which something stands: first what tells rows apart, then by how much they matter."""
    first = ("variant", "runtime", *PLACE, "batch_size")
    rows = [row for group in groups for row in group.rows]
    results = [result for group in groups for result in group.results]

    def wanted(c: Column) -> bool:
        if c.key in PLACE:
            return len({c.value(result) for result in results}) > 1
        return c.header is not None and c.needed(rows) and any(map(c.show, results))

    def order(c: Column) -> tuple[float, ...]:
        return (first.index(c.key),) if c.key in first else (len(first), math.inf if c.rank is None else c.rank)

    return sorted(filter(wanted, COLUMNS), key=order)


def side(c: Column) -> str:
    """Whether it is aligned, and sorted, as words or as numbers."""
    return "left" if c.key in PLACE and c.key != "threads" else c.align


def heading(c: Column) -> str:
    return c.header or c.key.replace("_", " ")


def fold(text: str) -> str:
    """A heading as HTML that breaks where a reader would."""
    return html.escape(text).replace("MACs/", "MACs/<wbr>").replace("[95 %]", "<small>[95 %]</small>")


def table_line(result: Result, group: Group, columns: list[Column]) -> str:
    cells = []
    mark = mark_result(result, group).replace(f" {BEST}", f"\N{NO-BREAK SPACE}{BEST}")
    for c in columns:
        text = c.show(result) if c.header is not None else clean(c.value(result))
        raw = clean(c.value(result)) if text else ""
        inside = ASIDE.sub(r" <small>\1</small>", html.escape(text)) if side(c) == "right" else html.escape(text)
        tag = "td"
        if c.key == "variant":
            tag, inside = 'th scope="row"', f"<span>{inside}</span>{mark}{notes(result.row)}"
        cells.append(f'<{tag} class="{side(c)}" data-value="{html.escape(raw)}">{inside}</{tag[:2]}>')
    row = result.row
    keys = {"variant": row.label, "runtime": row.runtime, "device": row.device, "batch": row.batch_size}
    data = " ".join(f'data-{name}="{html.escape(clean(value))}"' for name, value in keys.items())
    kind = " class=eliminated" if row.eliminated is not None else ""
    kind = " class=winner" if any(result is winner for winner in group.winners) else kind
    return f"<tr {data}{kind}>{''.join(cells)}</tr>\n"


def notes(row: Row) -> str:
    """Why it was chosen or eliminated, and warnings, to be unfolded."""
    items = [f"<li>{html.escape(note)}</li>" for note in list_notes(row)]
    summary = f"<summary>{len(items)} note{'s' * (len(items) != 1)}</summary>"
    return f"<details>{summary}<ul>{''.join(items)}</ul></details>" if items else ""


def plain(text: str) -> str:
    """Markdown of our own without its marks."""
    return re.sub("[`*]", "", text)
