"""Accuracy against what it costs: latency, work and size. Which variants are worth having."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reports.plots.labels import Point, finish
from reports.plots.style import (
    BROKEN,
    GREY,
    Entry,
    frame,
    leftmost,
    logarithmic,
    looks,
    marker_entries,
    panels,
    runtime_markers,
)
from reports.results import describe_conditions, group_rows
from reports.row import Row
from reports.text import clean, measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACCURACY = "top-1 accuracy, % (bars: 95 % interval)"
COSTS = {
    "macs_per_image": "MMACs executed for one image (FLOPs are twice that)",
    "file_bytes": "file that is timed, MB",
}
FRONT: Entry = ("Pareto front", {"color": GREY, "lw": 1.2, "ls": BROKEN})


def timed(rows: list[Row]) -> list[Row]:
    """The rows that have both a latency and an accuracy, of each table with two of them at least."""
    usable = [row for row in rows if row.completed and measured(row.latency_s) and measured(row.top1) is not None]
    compared = [row for group in group_rows(usable) if len(group.rows) > 1 for row in group.rows]
    return [row for row in usable if any(row is other for other in compared)]


def counted(rows: list[Row]) -> list[Row]:
    """The rows with an accuracy and a cost other than time that two variants of their dataset share at least."""
    usable = [row for row in rows if row.completed and measured(row.top1) is not None]
    shared = [row for name in COSTS for part in _by_dataset(usable, name) for row in part]
    return [row for row in usable if any(row is other for other in shared)]


def _by_dataset(rows: list[Row], cost: str) -> list[list[Row]]:
    """Those that have this cost, of each dataset with two variants of it at least."""
    parts = [
        [r for r in rows if r.dataset == name and getattr(r, cost)] for name in dict.fromkeys(r.dataset for r in rows)
    ]
    return [part for part in parts if len({row.label for row in part}) > 1]


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, gain) points that no other beats on both, in order of cost."""
    best: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or gain > best[-1][1]:
            best.append((cost, gain))
    return best


def against_latency(rows: list[Row]) -> Figure:
    """One panel for each table."""
    look, shape, everything, rows = looks(rows), runtime_markers(rows), rows, timed(rows)
    tables = [group.rows for group in group_rows(rows)]
    machines = len({row.device_name for row in rows}) > len({row.device for row in rows})
    fig, axes = panels(len(tables), (4.3, 3.7), sharey=len({row.dataset for row in rows}) == 1)
    drawn = []
    for ax, table in zip(axes, tables, strict=True):
        points = [_point(row, look, row.latency_s, row.latency_p10_s, row.latency_p90_s, 1e-3) for row in table]
        marks = [p.draw(ax, shape[r.runtime], look[r.label]) for p, r in zip(points, table, strict=True)]
        _complete(
            ax, points, describe_conditions(table[0], device_name=machines), "latency, ms (median; bars: p10 to p90)"
        )
        drawn.append((ax, list(zip(points, marks, strict=True))))
    return finish(fig, drawn, [*marker_entries(everything, rows), FRONT])


def against_cost(rows: list[Row]) -> Figure:
    """For each dataset one panel of MACs and one of file sizes, a mark for each distinct (variant, cost, accuracy)."""
    look, rows = looks(rows), counted(rows)
    cells = [(name, at_smallest_batch(part)) for name in COSTS for part in _by_dataset(rows, name)]
    cells.sort(key=lambda cell: rows.index(cell[1][0]))  # the panels of a dataset stand together
    fig, axes = panels(len(cells), (4.3, 3.7), across=2, sharey=len({row.dataset for row in rows}) == 1)
    drawn = []
    for ax, (name, chosen) in zip(axes, cells, strict=True):
        points = {}
        for row in chosen:
            point = _point(row, look, getattr(row, name), None, None, 1e6)
            points.setdefault((row.label, f"{point.x:.2g}", point.y), point)
        marks = [(point, point.draw(ax, "o", look[point.name])) for point in points.values()]
        sizes = sorted({row.batch_size for row in chosen})
        batch = f"batch {sizes[0]}" if len(sizes) == 1 else f"batch {sizes[0]} to {sizes[-1]}"
        _complete(ax, list(points.values()), clean(f"{chosen[0].dataset}, {batch}"), COSTS[name])
        drawn.append((ax, marks))
    shown = {point.name for _, marks in drawn for point, _ in marks}
    entries = [(name, {"marker": "o", "ls": "", **each}) for name, each in look.items() if name in shown]
    return finish(fig, drawn, [*entries, FRONT])


def at_smallest_batch(rows: list[Row]) -> list[Row]:
    """Of each variant, runtime and device the row with the least padding."""
    best: dict[tuple[object, ...], Row] = {}
    for row in sorted(rows, key=lambda row: row.batch_size):
        best.setdefault((row.label, row.runtime, row.device, row.device_name, row.threads, row.seed), row)
    return [row for row in rows if any(row is one for one in best.values())]


def _point(
    row: Row, look: dict[str, dict[str, Any]], x: float | None, left: float | None, right: float | None, unit: float
) -> Point:
    x, y = (x or 0) / unit, 100 * (row.top1 or 0)
    low, high = (y if measured(end) is None else 100 * (end or 0) for end in (row.top1_low, row.top1_high))
    bar = (min(x, (left or x * unit) / unit), max(x, (right or x * unit) / unit))
    return Point(row.label, look[row.label]["color"], x, y, bar, (min(low, y), max(high, y)))


def _complete(ax: Axes, points: list[Point], title: str, xlabel: str) -> None:
    """Axes, and the front through what no other beats."""
    xs = [point.x for point in points]
    if max(xs) > 5 * min(xs):
        logarithmic(ax)
    else:
        ax.locator_params(axis="x", nbins=6)
    ax.margins(x=0.16, y=0.1)
    ax.autoscale_view()
    right = ax.get_xlim()[1]
    best = front([(point.x, point.y) for point in points])
    steps = [x for x, _ in best] + [right], [y for _, y in best] + [best[-1][1]]
    ax.plot(*steps, drawstyle="steps-post", zorder=1, scalex=False, scaley=False, **FRONT[1])
    ax.set_xlim(right=right)
    frame(ax, title, xlabel, ACCURACY if leftmost(ax) else "")
