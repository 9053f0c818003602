"""Two runs or more, compared: as Markdown with a plot, on a terminal, and as a gate."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.plots.ratios import ratios
from reports.plots.style import png_svg
from reports.row import Row
from reports.runs import ALPHA, NO_DIFFERENCE, Against, Change, Comparison, compare, named, slower, times_text
from reports.table import conditions
from reports.terminal import plain_table
from reports.text import bold, bullets, clean, escape, figure, grid, p_value, percent

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

__all__ = ["Against", "Change", "Comparison", "compare", "render_comparison", "rich_comparison", "slower"]

COMPARABLE = (
    "Absolute times from different machines, versions or days are not comparable; a speed-up, being a ratio within one "
    "run, is."
)
NOISE = (
    "Intervals come from the rounds within each run. How much the same program differs from one start to the next is "
    "not in them: a difference of a few percent needs a second run."
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
                words = [clean(change.new.variant), clean(change.new.runtime)]
                cells = [*_times(change)[:3], _brief(change.time), _accuracy(change)[2], _brief(change.accuracy)]
                cells = [cell.replace(", ", ",") for cell in cells]
                tables.setdefault(conditions(change.new), []).append(words + cells)
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
    return "unclear" if verdict == NO_DIFFERENCE else verdict


def _findings(each: Against) -> Iterator[str]:
    """What a reader wants to know first, as plain text."""
    name, model = _names(each)
    yield _count(each.changes, "time", ("slower", "faster"), "latency", name)
    known = [change.latency[0] for change in each.changes if change.latency]
    if known:
        yield f"The median row takes {statistics.median(known):.3f} times as long."
    yield _count(each.changes, "speed", ("worse", "better"), "speed-up over the dense model", name)
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
        return clean(f"{row.variant} in {row.runtime}" + f", {row.dataset}, {row.device}" * several)

    return (named if several else lambda row: f"{model(row)}, batch {row.batch_size}"), model


def _count(changes: list[Change], what: str, verdicts: tuple[str, str], title: str, name: Callable[[Row], str]) -> str:
    """How many got worse and better, by name."""
    told = [(change, getattr(change, what)) for change in changes if getattr(change, what)]
    if not told:
        return f"{title.capitalize()}: nothing to compare."
    parts = []
    for verdict in verdicts:
        found = [name(change.new) for change, said in told if said == verdict]
        if found:
            parts.append(f"{len(found)} {verdict} ({'; '.join(found)})")
    unclear = sum(said == NO_DIFFERENCE for _, said in told)
    parts += [f"{unclear} without a clear difference"] if unclear else []
    return f"{title.capitalize()}, of {len(told)} in both: {', '.join(parts)}."


def _distinct(changes: list[Change]) -> list[Change]:
    """Once for each model and engine: accuracy does not depend on the batch."""
    found: dict[tuple[object, ...], Change] = {}
    for change in changes:
        row = change.new
        found.setdefault((row.dataset, row.variant, row.runtime, row.device, change.old.top1, row.top1), change)
    return list(found.values())


def _sections(reference: str, each: Against) -> list[str]:
    parts = [
        f"## {bold(each.run)} against {bold(reference)}",
        bullets(escape(line) for line in _findings(each)),
        *_table("Latency", _LATENCY, each.changes, _at(_times), NOISE),
        *_table(
            "Speed-up over the dense model", _SPEED, [c for c in each.changes if c.speed], _at(_speeds), _SPEED_NOTE
        ),
        *_table("Accuracy", _ACCURACY, _distinct([c for c in each.changes if c.accuracy]), _accuracy, _ACCURACY_NOTE),
    ]
    costs = [change for change in each.changes if any(was != now for _, was, now in _costs(change))]
    if each.changes and not costs:
        parts += ["### Work and size", "Multiply-accumulates, parameters and file sizes are the same."]
    return [*parts, *_table("Work and size", _COSTS, costs, _at(_cost_cells), "What changed, before → after.")]


_LATENCY = ["batch", "before ms", "after ms", "after / before [95 %]", "latency"]
_SPEED = ["batch", "before", "after", "after / before [95 %]", "speed-up"]
_ACCURACY = ["before %", "after %", "points", "accuracy", "macro recall before %", "macro recall after %"]
_COSTS = ["batch", "MMACs/image", "params M", "file MB"]
_SPEED_NOTE = "A slower machine cancels out here. The interval combines those of both speed-ups."
_ACCURACY_NOTE = (
    f"Two proportions, unpaired; p below {ALPHA} is called a difference. On the same test images this errs on the side "
    "of seeing none. Macro recall: the mean over the classes of the share got right, each counting the same."
)


def _table(
    title: str, header: list[str], changes: list[Change], cells: Callable[[Change], list[str]], note: str
) -> list[str]:
    if not changes:
        return []
    lines = []
    for change in changes:
        row = change.new
        words = [escape(x) for x in (row.dataset, row.variant, row.runtime, row.device)]
        lines.append([*words, str(row.threads), *cells(change)])
    right = [False] * 4 + [True] + [name not in ("latency", "speed-up", "accuracy") for name in header]
    return [f"### {title}", grid(["dataset", "variant", "runtime", "device", "threads", *header], lines, right), note]


def _at(cells: Callable[[Change], list[str]]) -> Callable[[Change], list[str]]:
    """The same with the batch size in front."""
    return lambda change: [str(change.new.batch_size), *cells(change)]


def _times(change: Change) -> list[str]:
    said = change.time or ("another machine" if change.old.device_name != change.new.device_name else "")
    latencies = [figure(row.latency_s, 1e-3) for row in (change.old, change.new)]
    return [*latencies, times_text(change.latency), said]


def _speeds(change: Change) -> list[str]:
    rows = change.old, change.new
    return [*(f"{row.speedup:.3f}" for row in rows if row.speedup), times_text(change.speedup), change.speed]


def _accuracy(change: Change) -> list[str]:
    old, new = change.old, change.new
    points = "" if old.top1 is None or new.top1 is None else f"{100 * (new.top1 - old.top1):+.2f}"
    said = change.accuracy + (f" ({p_value(change.accuracy_p)})" if change.accuracy_p is not None else "")
    top1 = [percent(row.top1, row.n_images) for row in (old, new)]
    macro = [percent(row.macro_recall, row.n_images) for row in (old, new)]
    return [*top1, points, said, *macro]


def _costs(change: Change) -> list[tuple[float, float | None, float | None]]:
    """Of each cost its display unit, before and after."""
    old, new = change.old, change.new
    return [
        (1e6, old.macs_per_image, new.macs_per_image),
        (1e6, old.params, new.params),
        (1e6, old.file_bytes, new.file_bytes),
    ]


def _cost_cells(change: Change) -> list[str]:
    cells = []
    for unit, was, now in _costs(change):
        share = f" ({100 * (now / was - 1):+.1f} %)" if was and now else ""
        cells.append("" if was == now else f"{figure(was, unit) or '?'} → {figure(now, unit) or '?'}{share}")
    return cells
