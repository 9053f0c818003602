"""Latency of each row of a run, against the same row of the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reports.plots.style import BLACK, GREY, PALETTE, frame, legend, panels, short
from reports.runs import Comparison
from reports.significance import NO_DIFFERENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = {
    "slower": (PALETTE[1], ">"),
    "faster": (PALETTE[0], "<"),
    NO_DIFFERENCE: (GREY, "o"),
}


def ratios(comparison: Comparison) -> Figure:
    """One panel for each run; a mark and its interval for each row that was timed in both."""
    runs = [(each, [change for change in each.changes if change.latency]) for each in comparison.runs]
    runs = [(each, changes) for each, changes in runs if changes]
    fig, axes = panels(len(runs), (6.4, 1.0 + 0.24 * max(len(changes) for _, changes in runs)), across=2)
    for ax, (each, changes) in zip(axes, runs, strict=True):
        names = []
        for place, change in enumerate(changes):
            middle, low, high = change.latency or (1, 1, 1)
            color, marker = LOOKS[change.time or NO_DIFFERENCE]
            ax.plot([low or middle or 1, high or middle or 1], [place, place], color=color, lw=1.4, zorder=2)
            ax.plot(middle or 1, place, marker, color=color, ms=6, mec="white", mew=0.6, zorder=3)
            row = change.new
            names.append(
                f"{short(row.label, 24)}  {short(row.runtime, 16)}  {short(row.device, 8)}, batch {row.batch_size}"
            )
        ax.axvline(1, color=BLACK, lw=0.8, zorder=1)
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        frame(ax, f"{short(each.run, 24)} against {short(comparison.reference, 24)}", grid="x")
        ax.set_xlabel("latency, after / before (bars: 95 % interval)")
        _room(ax)
    verdicts = {change.time or NO_DIFFERENCE for _, changes in runs for change in changes}
    shown = [(name, look) for name, look in LOOKS.items() if name in verdicts]
    legend(fig, [(name, {"color": color, "marker": marker, "ls": "", "ms": 6}) for name, (color, marker) in shown])
    return fig


def _room(ax: Axes) -> None:
    """Never so narrow that noise looks large: a tenth to both sides at least."""
    left, right = ax.get_xlim()
    ax.set_xlim(min(left, 0.9), max(right, 1.1))
