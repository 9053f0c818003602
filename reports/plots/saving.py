"""What was promised and what came of it: savings in time, and tokens kept in each block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reports.plots.labels import Point, finish
from reports.plots.style import (
    BROKEN,
    GREY,
    Entry,
    frame,
    leftmost,
    legend,
    looks,
    marker_entries,
    panels,
    runtime_markers,
    strokes,
)
from reports.results import describe_conditions, group_rows
from reports.row import Row
from reports.text import clean, measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL: Entry = ("ideal (time saved = MACs saved)", {"color": GREY, "lw": 1.2, "ls": BROKEN})
DENSE: Entry = ("most in any block", {"color": GREY, "lw": 1.2, "ls": BROKEN})


def promising(rows: list[Row]) -> list[Row]:
    """Timed variants that execute fewer MACs than the dense model, in the same dtype; none where there is only one."""
    found = [row for row in rows if row.completed and not row.dense and measured(row.realised) is not None]
    return found if len(found) > 1 else []


def ragged(rows: list[Row]) -> list[Row]:
    """Those whose tokens were counted, once for each variant and dataset."""
    found: dict[tuple[str, str, int], Row] = {}
    for row in rows:
        if row.tokens_per_block:
            found.setdefault((row.dataset, row.label, row.seed), row)
    return list(found.values())


def saved(times: float) -> float:
    """Percent of the whole that a ratio of costs, before / after, saves."""
    return 100 * (1 - 1 / times)


def realised(rows: list[Row]) -> Figure:
    """Saving of time against saving of MACs, a panel for each table, all to one scale."""
    look, shape, everything, rows = looks(rows), runtime_markers(rows), rows, promising(rows)
    tables = [group.rows for group in group_rows(rows)]
    machines = len({row.device_name for row in rows}) > len({row.device for row in rows})
    fig, axes = panels(len(tables), (4.3, 3.7), sharey=True)
    drawn = []
    for ax, table in zip(axes, tables, strict=True):
        points = [_saving(row, look[row.label]["color"]) for row in table]
        marks = [p.draw(ax, shape[r.runtime], look[r.label]) for p, r in zip(points, table, strict=True)]
        title = describe_conditions(table[0], device_name=machines)
        frame(ax, title, "MACs saved, %", "time saved, % (bars: 95 % interval)" if leftmost(ax) else "")
        drawn.append((ax, list(zip(points, marks, strict=True))))
    points = [point for _, marks in drawn for point, _ in marks]
    left, right = _room([point.x for point in points], 0.16)
    bottom, top = _room([end for point in points for end in (*point.ybar, point.x)], 0.08)
    for ax in axes:
        ax.axhline(0, color=GREY, lw=0.8, zorder=1)
        ax.plot([left, right], [left, right], zorder=1, **ALL[1])
        ax.set(xlim=(left, right), ylim=(bottom, top))
    return finish(fig, drawn, [*marker_entries(everything, rows), ALL])


def _room(values: list[float], margin: float) -> tuple[float, float]:
    """From the least to the greatest, 0 among them, and a share of that on both sides."""
    low, high = min(0.0, *values), max(0.0, *values)
    return low - margin * (high - low), high + margin * (high - low)


def _saving(row: Row, color: str) -> Point:
    x, y = saved(row.ceiling or 1), saved(row.speedup or 1)
    low, high = measured(row.speedup_low), measured(row.speedup_high)
    return Point(row.label, color, x, y, (x, x), (saved(low) if low else y, saved(high) if high else y))


def alike(kept: list[float], other: list[float], tolerance: float) -> bool:
    return len(kept) == len(other) and all(abs(a - b) <= tolerance for a, b in zip(kept, other, strict=True))


def tokens(rows: list[Row]) -> Figure:
    """Tokens that ran in each block, a panel for each dataset."""
    from matplotlib.ticker import MaxNLocator

    stroke, rows = strokes(rows), ragged(rows)
    datasets = list(dict.fromkeys(row.dataset for row in rows))
    fig, axes = panels(len(datasets), (5.2, 3.3))
    for ax, dataset in zip(axes, datasets, strict=True):
        here = [row for row in rows if row.dataset == dataset]
        most = max(max(row.tokens_per_block or [0]) for row in here)
        ax.axhline(most, zorder=1, **DENSE[1])
        for i, row in enumerate(here):
            kept = row.tokens_per_block or []
            covered = sum(alike(kept, other.tokens_per_block or [], 0.02 * most) for other in here[i + 1 :])
            # Wider, so as to show behind those that run the same way.
            width, mark = 1.6 + 2 * covered, 4 + 2.5 * covered
            ax.plot(range(1, len(kept) + 1), kept, marker="o", ms=mark, lw=width, zorder=3 + i, **stroke[row.label])
        ax.set_ylim(0, 1.08 * most)
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        ax.margins(x=0.04)
        frame(ax, clean(f"{dataset}, mean over the test images"), "block", "tokens computed")
    names = dict.fromkeys(row.label for row in rows)
    entries = [(name, {"marker": "o", "ms": 4, "lw": 1.6, **stroke[name]}) for name in names]
    legend(fig, [*entries, DENSE])
    return fig
