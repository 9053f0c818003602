"""The comparison as Markdown, and what every table of it says below its rows."""

import re

from reports.columns import SHOWN
from reports.results import Group, Result, group_rows
from reports.row import BASELINE, Row
from reports.text import bullets, clean, escape, grid

BEST = "★"  # behind the name of the fastest row without a significant loss of top-1


def name_dense(row: Row) -> str:
    """The dense model that a row is compared with, as Markdown."""
    return f"`{BASELINE}`" if row.base == BASELINE else escape(row.base)


def mark_result(result: Result, group: Group) -> str:
    """What stands behind the name of a row: whether it won, was chosen or eliminated."""
    marks = [f" {BEST}"] if any(result is winner for winner in group.winners) else []
    marks += [" (chosen)"] if result.row.chosen is not None else []
    marks += [" (eliminated)"] if result.row.eliminated is not None else []
    return "".join(marks)


def explain_marks(group: Group) -> list[str]:
    """What the star means, in a table that has one."""
    scored = any(result.row.top1 is not None for result in group.results)
    loss = " without a statistically significant loss of top-1" if scored else ""
    return [f"{BEST} fastest{loss}"] if group.winners else []


def list_notes(row: Row) -> list[str]:
    """Why it was chosen or eliminated, and its warnings, as plain text."""
    notes = [] if row.chosen is None else [f"chosen: {clean(row.chosen) or 'no reason was recorded'}"]
    if row.eliminated is not None:
        images = "" if row.n_images is None else f" after {row.n_images:,} images"
        notes.append(f"eliminated{images}: {clean(row.eliminated) or 'no reason was recorded'}")
    return [*notes, *map(clean, row.warnings)]


def number_notes(group: Group) -> tuple[list[str], list[str]]:
    """Marks and notes of one table.

    Returns:
        For each result what stands behind its name, as ` ★ [1]`; and the notes, as `[1] text`, in order, not escaped.
        A note that all rows share has no number.
    """
    notes = [list(dict.fromkeys(list_notes(result.row))) for result in group.results]
    shared = [note for note in notes[0] if len(notes) > 1 and all(note in own for own in notes)] if notes else []
    numbers: dict[str, int] = {}
    marks = []
    for result, own in zip(group.results, notes, strict=True):
        cited = [numbers.setdefault(note, len(numbers) + 1) for note in own if note not in shared]
        marks.append(mark_result(result, group) + "".join(f" [{n}]" for n in sorted(cited)))
    return marks, [*(f"all rows: {note}" for note in shared), *(f"[{n}] {note}" for note, n in numbers.items())]


def describe_failures(group: Group) -> list[str]:
    """A sentence for each row without figures, as plain text."""
    return [
        f"{clean(row.label)} in {clean(row.runtime)} failed: {clean(row.failed) or 'no reason was recorded'}"
        for row in group.failures
    ]


def markdown_table(rows: list[Row]) -> str:
    """One heading, table and list of notes for each dataset, device, thread count and batch size."""
    parts = []
    shown = [c for c in SHOWN if c.needed(rows)]
    for group in group_rows(rows):
        marks, notes = number_notes(group)
        cells = []
        for result, mark in zip(group.results, marks, strict=True):
            line = [escape(c.show(result)) if c.align == "left" else c.show(result) for c in shown]
            line[[c.key for c in shown].index("variant")] += mark
            cells.append(line)
        parts.append(f"### {escape(group.title)}")
        if cells:
            parts.append(grid([c.header or "" for c in shown], cells, [c.align == "right" for c in shown]))
        below = [re.sub(r"^\\\[(\d+)\\\]", r"[\1]", escape(note)) for note in notes]  # our own brackets are no markup
        parts.append(bullets([*explain_marks(group), *below, *map(escape, describe_failures(group))]))
    return "\n\n".join(part for part in parts if part)
