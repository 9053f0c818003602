"""Every plot, each a pure function of rows: as PNG and as SVG, the same bytes from the same rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reports.classes import confused, recalls
from reports.plots import classes, latency, pareto, recovery, saving, training
from reports.plots.style import png_svg
from reports.recovery import recoveries
from reports.row import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Plot:
    """One picture. It is made only where `data` finds something in the rows."""

    title: str  # what it shows, in words
    data: Callable[[list[Row]], list[Any]]
    draw: Callable[[list[Row]], Figure]

    def __call__(self, rows: list[Row]) -> tuple[bytes, str]:
        """The plot as PNG (200 dots an inch) and as SVG.

        Raises:
            ValueError: the rows have nothing to draw.
        """
        if not self.data(rows):
            raise ValueError(f"no row has what this plot needs: {self.title}")
        return png_svg(lambda: self.draw(rows))


# By file name. Colours and marks mean the same in all of them, since each is given all rows.
PLOTS = {
    "pareto": Plot("Accuracy against latency", pareto.timed, pareto.against_latency),
    "pareto_cost": Plot("Accuracy against multiply-accumulates and file size", pareto.counted, pareto.against_cost),
    "realised": Plot("Time saved against multiply-accumulates saved", saving.promising, saving.realised),
    "tokens": Plot("Tokens computed in each block", saving.ragged, saving.tokens),
    "latency": Plot("Distribution of the latencies", latency.sampled, latency.distributions),
    "recall": Plot("Recall of each class", recalls, classes.recall),
    "confusion": Plot("Confusion between classes", confused, classes.confusion),
    "recovery": Plot("Accuracy over the epochs of fine-tuning, against the baseline", recoveries, recovery.curves),
    "training": Plot("Loss and accuracy over the epochs of training", training.trained, training.curves),
}


def plot_files(rows: list[Row]) -> dict[str, bytes]:
    """Those plots that have something to show, each as `.png` and `.svg`, by file name."""
    files = {}
    for name, plot in PLOTS.items():
        if plot.data(rows):
            png, svg = plot(rows)
            files |= {f"{name}.png": png, f"{name}.svg": svg.encode()}
    return files
