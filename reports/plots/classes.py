"""Class by class: what each model recognises, and what it takes for what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reports.classes import confused, recalls
from reports.plots.style import frame, legend, looks, panels, short
from reports.row import Row
from reports.text import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBERED = 12  # classes up to which a matrix has room for numbers, and names on both sides
NAMED = 40  # and names at all


def recall(rows: list[Row]) -> Figure:
    """A panel for each dataset, a line for each class, a mark for each model."""
    found = recalls(rows)
    look: dict[str, dict[str, Any]] = {name: each | {"markersize": 5} for name, each in looks(rows).items()}
    tallest = max(len(each.classes) for each in found)
    fig, axes = panels(len(found), (5.6, 1.1 + 0.3 * tallest), across=2)
    for ax, each in zip(axes, found, strict=True):
        step = 0.7 / len(each.models)
        for number, (variant, (_, values)) in enumerate(each.models.items()):
            offset = step * (number - (len(each.models) - 1) / 2)
            known = [(100 * value, i + offset) for i, value in enumerate(values) if value is not None]
            ax.plot([x for x, _ in known], [y for _, y in known], "o", zorder=3, **look[variant])
        ax.set_yticks(range(len(each.classes)), [short(name, 24) for name in each.classes])
        ax.set_ylim(len(each.classes) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        for i in range(0, len(each.classes), 2):
            ax.axhspan(i - 0.5, i + 0.5, color="#f5f5f5", lw=0, zorder=0)
        counts = sorted(count for count in each.images if count is not None)
        total = len(each.classes) + each.left_out
        title = (f"{len(each.classes)} of {total} classes of " if each.left_out else "") + clean(each.dataset)
        of = f"of the {_range(counts)} test images of a class" if counts else "of the test images of a class"
        frame(ax, title, f"correct {of}, %", grid="x")
    shown = {variant for each in found for variant in each.models}
    entries = [(name, {"marker": "o", "ls": "", **each}) for name, each in look.items()]
    legend(fig, [entry for entry in entries if entry[0] in shown])
    return fig


def _range(counts: list[int]) -> str:
    return f"{counts[0]:,}" if counts[0] == counts[-1] else f"{counts[0]:,} to {counts[-1]:,}"


def confusion(rows: list[Row]) -> Figure:
    """Shares of each true class in percent; small multiples, at most four a dataset."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm

    chosen = confused(rows)
    most = max(len(row.classes or []) for row in chosen)
    size = 1.6 + min(0.34 * most, 4.0)
    fig, axes = panels(len(chosen), (size, size), across=2)
    norm = PowerNorm(0.5, 0, 100)  # errors are few: the scale spreads them out
    for ax, row in zip(axes, chosen, strict=True):
        _matrix(ax, row, norm)
    bar = fig.colorbar(ScalarMappable(norm, "Blues"), ax=axes, shrink=0.6, aspect=30, pad=0.02)
    bar.set_label("share of true class, %")
    bar.set_ticks([0, 1, 5, 20, 50, 100])
    bar.outline.set_visible(False)  # type: ignore[operator]
    return fig


def _matrix(ax: Axes, row: Row, norm: object) -> None:
    import numpy as np

    names = [short(name, 14) for name in row.classes or []]
    counts = np.array(row.confusion, dtype=float)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    ax.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")  # type: ignore[arg-type]
    if len(names) <= NUMBERED:
        for i, j in zip(*np.nonzero(counts), strict=True):
            text = f"{shares[i, j]:.0f}"
            color = "white" if shares[i, j] > 40 else "black"
            ax.text(j, i, "<1" if text == "0" else text, ha="center", va="center", fontsize=7, color=color)
    if len(names) <= NAMED:
        ax.set_xticks(range(len(names)), names, rotation=90, fontsize=8 if len(names) <= NUMBERED else 5)
        ax.set_yticks(range(len(names)), names, fontsize=8 if len(names) <= NUMBERED else 5)
    ax.tick_params(length=0)
    ax.set_title(short(f"{row.label} in {row.runtime}, {row.dataset}", 40))
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    ax.spines[:].set_visible(False)
