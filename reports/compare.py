"""Two runs or more, compared: as Markdown with a plot, on a terminal, and as a gate."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.changes import (
    ACCURACY,
    ACCURACY_NOTE,
    COSTS,
    LATENCY,
    SPEED,
    SPEED_NOTE,
    UNDER_LOAD,
    accuracy_cells,
    cost_cells,
    describe_time,
    explain_times,
    list_costs,
    speed_cells,
    time_cells,
    with_batch,
)
from reports.plots.ratios import ratios
from reports.plots.style import png_svg
from reports.results import describe_conditions
from reports.row import Row
from reports.runs import Against, Change, Comparison, compare, describe_row, slower
from reports.significance import NO_DIFFERENCE
from reports.terminal import plain_table
from reports.text import bold, bullets, clean, escape, grid

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

__all__ = ["Against", "Change", "Comparison", "compare", "render_comparison", "rich_comparison", "slower"]

COMPARABLE = (
    "Absolute times from different machines, versions or days are not comparable; a speed-up, being a ratio within one "
    "run, is."
)


def render_comparison(runs: Mapping[str, list[Row]]) -> dict[str, bytes]:
    """`comparison.md`, and `comparison.png` and `.svg` where rows were timed in both, by file name.

    Raises:
        ValueError: there are fewer than two runs.
    """
    comparison = compare(runs)
    timed = any(change.latency for each in comparison.runs for change in each.changes)
    plot = "![Latency against the reference](comparison.svg)" if timed else ""
    parts = ["# Comparison of runs", f"Every run against the first, {bold(comparison.reference)}.", plot]
    for each in comparison.runs:
        parts += _sections(comparison.reference, each)
    files = {"comparison.md": ("\n\n".join(part for part in parts if part) + "\n").encode()}
    if timed:
        png, svg = png_svg(lambda: ratios(comparison))
        files |= {"comparison.png": png, "comparison.svg": svg.encode()}
    return files


def rich_comparison(runs: Mapping[str, list[Row]]) -> RenderableType:
    """The same for a terminal.

    Raises:
        ValueError: there are fewer than two runs.
    """
    return Terminal(compare(runs))


@dataclass(frozen=True)
class Terminal:
    comparison: Comparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text  # plain text: a run named `[red]` is no markup

        for each in self.comparison.runs:
            yield Text(f"{clean(each.run)} against {clean(self.comparison.reference)}", style="bold")
            tables: dict[str, list[list[str]]] = {}
            for change in each.changes:
                words = [clean(change.new.label), clean(change.new.runtime)]
                cells = [
                    *time_cells(change)[:3],
                    _brief(describe_time(change)),
                    accuracy_cells(change)[2],
                    _brief(change.accuracy),
                ]
                cells = [cell.replace(", ", ",") for cell in cells]
                tables.setdefault(describe_conditions(change.new), []).append(words + cells)
            for title, lines in tables.items():
                yield Text(f"\n{title}")
                right = [False, False, True, True, True, False, True, False]
                yield plain_table(list(zip(_BRIEF, right, strict=True)), lines)
            yield Text("\n" + "\n".join(f"- {line}" for line in _findings(each)) + "\n")


_BRIEF = [
    *("variant", "runtime", "before\nms", "after\nms", "after / before\n[95 %]", "latency"),
    *("top-1\npoints", "accuracy"),
]


def _brief(verdict: str) -> str:
    return {NO_DIFFERENCE: "not clear", UNDER_LOAD: "not clear (load)"}.get(verdict, verdict)


def _findings(each: Against) -> Iterator[str]:
    """What a reader wants to know first, as plain text."""
    name, model = _names(each)
    yield _count(each.changes, "time", ("slower", "faster"), "latency", name)
    known = [change.latency[0] for change in each.changes if change.latency and change.latency[0]]
    if known:
        relative = ", relative to the standing reference" * all(c.relative for c in each.changes if c.latency)
        yield f"The median row takes {statistics.median(known):.3f} times as long{relative}."
    yield _count(each.changes, "speed", ("slower", "faster"), "speed-up over the dense model", name)
    yield _count(_distinct(each.changes), "accuracy", ("worse", "better"), "accuracy", model)
    for row in each.failed:
        yield f"Failed here, measured before: {model(row)} ({clean(row.failed)})."
    for title, rows in (("Only before", each.gone), ("Only here", each.added)):
        if rows:
            yield f"{title}: {'; '.join(map(name, rows))}."
    for difference in each.warnings:
        yield f"Not the same: {difference}."
    if each.warnings:
        yield COMPARABLE


def _names(each: Against) -> tuple[Callable[[Row], str], Callable[[Row], str]]:
    """How rows and models are called: with dataset and device only where there are several."""
    rows = [*(change.new for change in each.changes), *each.gone, *each.added]
    several = len({(row.dataset, row.device, row.threads) for row in rows}) > 1

    def model(row: Row) -> str:
        return clean(f"{row.label} in {row.runtime}" + f", {row.dataset}, {row.device}" * several)

    return (describe_row if several else lambda row: f"{model(row)}, batch {row.batch_size}"), model


def _count(changes: list[Change], what: str, verdicts: tuple[str, str], title: str, name: Callable[[Row], str]) -> str:
    """How many got worse and better, by name."""
    told = [(change, getattr(change, what)) for change in changes if getattr(change, what)]
    if not told:
        return f"{title.capitalize()}: nothing to compare."
    parts = []
    for verdict in verdicts:
        names = [name(change.new) for change, said in told if said == verdict]
        if names:
            parts.append(f"{len(names)} {verdict} ({'; '.join(names)})")
    unclear = sum(said == NO_DIFFERENCE for _, said in told)
    parts += [f"{unclear} without a significant difference"] if unclear else []
    return f"{title.capitalize()}, of {len(told)} in both: {', '.join(parts)}."


def _distinct(changes: list[Change]) -> list[Change]:
    """Once for each model and engine: accuracy does not depend on the batch."""
    distinct: dict[tuple[object, ...], Change] = {}
    for change in changes:
        row = change.new
        distinct.setdefault((row.dataset, row.label, row.runtime, row.device, change.old.top1, row.top1), change)
    return list(distinct.values())


def _sections(reference: str, each: Against) -> list[str]:
    sped = [change for change in each.changes if change.speed]
    scored = [change for change in each.changes if change.accuracy]
    parts = [
        f"## {bold(each.run)} against {bold(reference)}",
        bullets(escape(line) for line in _findings(each)),
        *_table("Latency", LATENCY, each.changes, with_batch(time_cells), explain_times(each.changes)),
        *_table("Speed-up over the dense model", SPEED, sped, with_batch(speed_cells), SPEED_NOTE),
        *_table("Accuracy", ACCURACY, _distinct(scored), accuracy_cells, ACCURACY_NOTE),
    ]
    costs = [change for change in each.changes if any(was != now for _, was, now in list_costs(change))]
    if each.changes and not costs:
        parts += ["### Work and size", "Multiply-accumulates, parameters and file sizes are the same."]
    return [*parts, *_table("Work and size", COSTS, costs, with_batch(cost_cells), "What changed, before → after.")]


def _table(
    title: str, header: list[str], changes: list[Change], cells: Callable[[Change], list[str]], note: str
) -> list[str]:
    if not changes:
        return []
    lines = []
    for change in changes:
        row = change.new
        words = [escape(x) for x in (row.dataset, row.label, row.runtime, row.device)]
        lines.append([*words, str(row.threads), *cells(change)])
    right = [False] * 4 + [True] + [name not in ("latency", "speed-up", "accuracy") for name in header]
    return [f"### {title}", grid(["dataset", "variant", "runtime", "device", "threads", *header], lines, right), note]
