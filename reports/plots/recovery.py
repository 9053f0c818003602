"""What fine-tuning brings back, epoch by epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reports.plots.style import BROKEN, GREY, Entry, frame, leftmost, legend, panels, strokes
from reports.recovery import Recovery, recoveries, wilson
from reports.row import Row
from reports.text import clean, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DENSE: Entry = ("dense", {"color": GREY, "lw": 1.2, "ls": BROKEN})


def curves(rows: list[Row]) -> Figure:
    """Points above the accuracy of the baseline over the epochs of fine-tuning, a panel for each dataset and seed."""
    from matplotlib.ticker import MaxNLocator

    stroke, found = strokes(rows), recoveries(rows)
    places = list(dict.fromkeys((each.row.dataset, each.row.seed) for each in found))
    seeds = len({seed for _, seed in places}) > 1
    fig, axes = panels(len(places), (5.2, 3.3), across=2)
    for ax, (dataset, seed) in zip(axes, places, strict=True):
        here = [each for each in found if (each.row.dataset, each.row.seed) == (dataset, seed)]
        dense = here[0].dense.top1 if here[0].dense else None
        if dense is not None:
            ax.axhline(0, zorder=1, **DENSE[1])
        for each in here:
            _curve(ax, each, dense or 0.0, stroke[each.row.label])
        title = clean(dataset) + f", seed {seed}" * seeds
        title += f", dense {percent(dense, here[0].row.n_images)} %" if dense is not None else ""
        label = "top-1 accuracy, %" if dense is None else "top-1 against dense, points"
        frame(ax, title, "epochs of fine-tuning", label + " (band: 95 %)" if leftmost(ax) or dense is None else "")
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        ax.margins(x=0.04, y=0.1)
    names = dict.fromkeys(each.row.label for each in found)
    entries = [(name, {"marker": "o", "ms": 4, "lw": 1.6, **stroke[name]}) for name in names]
    legend(fig, [*entries, *([DENSE] if any(each.dense for each in found) else [])])
    return fig


def _curve(ax: Axes, each: Recovery, dense: float, look: dict[str, object]) -> None:
    epochs = sorted(each.top1)
    shares = [each.top1[epoch] for epoch in epochs]
    ax.plot(epochs, [100 * (share - dense) for share in shares], marker="o", ms=4, lw=1.6, zorder=3, **look)  # type: ignore[arg-type]
    if each.row.n_images:
        ends = [wilson(share, each.row.n_images) for share in shares]
        low, high = ([100 * (end[side] - dense) for end in ends] for side in (0, 1))
        ax.fill_between(epochs, low, high, color=str(look["color"]), alpha=0.12, lw=0, zorder=2)
