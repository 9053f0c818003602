"""How the latencies of each row are distributed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reports.plots.style import BLACK, frame, logarithmic, panels, short, strokes
from reports.results import describe_conditions, group_rows
from reports.row import Row, quantile
from reports.text import measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VIOLIN = 30  # samples from which on a density means something
HEIGHT = 0.4  # of half a violin, where rows are 1 apart


def sampled(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.completed and measured(quantile(row.latency_samples_s, 0.0))]


def distributions(rows: list[Row]) -> Figure:
    """One panel for each table: a violin and its quartiles for each row, or the samples where they are few."""
    stroke, rows = strokes(rows), sampled(rows)
    tables = [group.rows for group in group_rows(rows)]
    machines = len({row.device_name for row in rows}) > len({row.device for row in rows})
    fig, axes = panels(len(tables), (5.4, 1.3 + 0.3 * max(map(len, tables))), across=2)
    for ax, table in zip(axes, tables, strict=True):
        for place, row in enumerate(table):
            _strip(ax, place, [1e3 * sample for sample in row.latency_samples_s], stroke[row.label]["color"])
        ends = [1e3 * (quantile(row.latency_samples_s, q) or 0) for row in table for q in (0.01, 0.99)]
        logarithmic(ax)
        reach = (max(ends) / min(ends)) ** 0.04 * 1.01
        ax.set_xlim(min(ends) / reach, max(ends) * reach)
        if max(ends) < 5 * min(ends):  # too few round numbers for ticks of 1, 2, 5
            _linear_ticks(ax)
        ax.set_yticks(range(len(table)), [f"{short(row.label, 24)}  {short(row.runtime, 16)}" for row in table])
        ax.set_ylim(len(table) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        title = describe_conditions(table[0], device_name=machines)
        frame(
            ax,
            title,
            "latency of one batch, ms\n(line: median; bar: middle half;\nwithout the outermost 1 %)",
            grid="x",
        )
    return fig


def _linear_ticks(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))


def _strip(ax: Axes, place: int, samples: list[float], color: str) -> None:
    """One row, at height `place`. The axis shows the 1st to the 99th percentile of all rows."""
    import numpy as np

    low, median, high = (quantile(samples, q) or 0 for q in (0.25, 0.5, 0.75))
    if len(samples) < VIOLIN or low == high:
        # The samples themselves, spread over the height so that they do not hide one another.
        spread = place + HEIGHT * 0.7 * (2 * (np.arange(len(samples)) * 0.618 % 1) - 1)
        ax.plot(samples, spread, "o", color=color, ms=3, alpha=0.5, mew=0, zorder=2)
    else:
        _violin(ax, place, samples, color)
    ax.plot([low, high], [place, place], color=color, lw=4, alpha=0.9, solid_capstyle="butt", zorder=3)
    ax.plot([median, median], [place - 0.3, place + 0.3], color=BLACK, lw=1.6, zorder=4)


def _violin(ax: Axes, place: int, samples: list[float], color: str) -> None:
    """The density of the logarithms, without the half percent at either end."""
    import numpy as np
    from scipy.stats import gaussian_kde

    logs = np.log(np.quantile(samples, np.linspace(0.005, 0.995, min(len(samples), 400))))
    x = np.linspace(logs.min(), logs.max(), 120)
    density = gaussian_kde(logs)(x)
    height = HEIGHT * density / density.max()
    ax.fill_between(np.exp(x), place - height, place + height, color=color, alpha=0.35, lw=0, zorder=2)
