"""Loss and accuracy over the epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reports.plots.style import DASHES, frame, legend, panels, short, strokes
from reports.row import Row
from reports.text import clean, measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOP1 = {"train_top1": ("training images", DASHES[1]), "validation_top1": ("validation images", "-")}


def trained(rows: list[Row]) -> list[Row]:
    """Those that carry two epochs of training at least, once for each variant, dataset and seed."""
    found: dict[tuple[str, str, int], Row] = {}
    for row in rows:
        if any(len(curve(row, name)[0]) > 1 for name in ("loss", *TOP1)):
            found.setdefault((row.label, row.dataset, row.seed), row)
    return list(found.values())


def curve(row: Row, name: str) -> tuple[list[float], list[float]]:
    """Epochs, and one quantity where it was noted."""
    noted = [
        (record["epoch"], record[name])
        for record in row.training or []
        if measured(record.get("epoch")) is not None and measured(record.get(name)) is not None
    ]
    return [epoch for epoch, _ in noted], [value for _, value in noted]


def curves(rows: list[Row]) -> Figure:
    """Two panels for each model that was trained: its loss and its accuracy."""
    stroke, rows = strokes(rows), trained(rows)
    seeds = len({row.seed for row in rows}) > 1
    fig, axes = panels(2 * len(rows), (3.1, 2.6), across=2 if len(rows) < 3 else 4)
    for row, loss, top1 in zip(rows, axes[::2], axes[1::2], strict=True):
        color = stroke[row.label]["color"]
        title = f"{short(row.label, 24)}, {clean(row.dataset)}" + f", seed {row.seed}" * seeds
        loss.plot(*curve(row, "loss"), color=color, lw=1.6, marker="o", ms=2.5)
        frame(loss, title, "epoch", "training loss")
        for name, (_, dashes) in TOP1.items():
            epochs, values = curve(row, name)
            top1.plot(epochs, [100 * value for value in values], color=color, ls=dashes, lw=1.6, marker="o", ms=2.5)
        whose = " and ".join(images.split()[0] for name, (images, _) in TOP1.items() if curve(row, name)[0])
        frame(top1, title, "epoch", f"top-1, %\n({whose} images)")
        for ax in (loss, top1):
            _whole_epochs(ax)
    names = [name for name in TOP1 if any(len(curve(row, name)[0]) for row in rows)]
    if names:
        legend(fig, [(TOP1[name][0], {"color": "black", "ls": TOP1[name][1], "lw": 1.6}) for name in names])
    return fig


def _whole_epochs(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.margins(x=0.04, y=0.1)
