"""Points that do not hide one another, and their names where there is room for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reports.plots.style import Entry, fix_layout, legend, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

RIM = 4  # typographic points by which a mark under another is larger


@dataclass(frozen=True)
class Point:
    """One mark with its error bars, in data coordinates, each bar from end to end."""

    name: str
    color: str
    x: float
    y: float
    xbar: tuple[float, float]
    ybar: tuple[float, float]

    def draw(self, ax: Axes, marker: str, look: dict[str, Any]) -> Line2D:
        """Bars and mark; returns the mark."""
        (left, right), (low, high) = self.xbar, self.ybar
        xerr, yerr = [[self.x - left], [right - self.x]], [[self.y - low], [high - self.y]]
        ax.errorbar(
            self.x, self.y, yerr, xerr, fmt="none", ecolor=self.color, elinewidth=1, alpha=0.45, capsize=2, zorder=2
        )
        return ax.plot(self.x, self.y, marker, zorder=4, **look)[0]


Marks = Sequence[tuple[Point, "Line2D"]]  # in the order in which they are drawn


def finish(fig: Figure, drawn: Sequence[tuple[Axes, Marks]], entries: Sequence[Entry]) -> Figure:
    """Legend, layout, and then what needs to know where everything stands: sizes of marks, and names."""
    legend(fig, entries)
    fix_layout(fig)
    for ax, marks in drawn:
        enlarge_hidden(ax, marks)
        label(ax, marks)
    return fig


def enlarge_hidden(ax: Axes, marks: Marks) -> None:
    """Enlarges each mark whose centre lies under a later one, so that a rim of it shows around that."""
    root: Any = ax.get_figure(root=True)
    places = ax.transData.transform([(point.x, point.y) for point, _ in marks]) * 72 / root.dpi
    for i in reversed(range(len(marks))):
        mark = marks[i][1]
        above = [other.get_markersize() for j, (_, other) in enumerate(marks) if j > i and
                 math.dist(places[i], places[j]) < other.get_markersize() / 2]  # fmt: skip
        mark.set_markersize(max([mark.get_markersize(), *(size + RIM for size in above)]))


def label(ax: Axes, marks: Marks) -> None:
    """Writes the name of every point that has one beside it, or none at all where one finds no room."""
    from matplotlib.colors import to_rgb
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    root: Any = ax.get_figure(root=True)
    renderer = root.canvas.get_renderer()
    points, taken, texts = [point for point, _ in marks], [], []
    for point, mark in marks:
        (x, y), reach = ax.transData.transform((point.x, point.y)), (0.5 * mark.get_markersize() + 1) * root.dpi / 72
        taken.append(Bbox.from_extents(x - reach, y - reach, x + reach, y + reach))
    bars = [Bbox(ax.transData.transform([(p.xbar[0], p.y), (p.xbar[1], p.y)])) for p in points]
    bars += [Bbox(ax.transData.transform([(p.x, p.ybar[0]), (p.x, p.ybar[1])])) for p in points]
    for point in sorted((point for point in points if point.name), key=lambda point: point.x):
        text = ax.annotate(
            short(point.name, 24), (point.x, point.y), textcoords="offset points", xytext=(0, 0), fontsize=8,
            color=[0.75 * part for part in to_rgb(point.color)], zorder=5,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip

        def free(offset: tuple[int, int], obstacles: list[Bbox], text: Any = text) -> bool:
            dx, dy = offset
            text.set_position(offset)
            text.set_horizontalalignment("left" if dx > 0 else "right" if dx < 0 else "center")
            text.set_verticalalignment("bottom" if dy > 0 else "top" if dy < 0 else "center")
            box = text.get_window_extent(renderer)
            inside = ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1 and ax.bbox.y0 <= box.y0 and box.y1 <= ax.bbox.y1
            return inside and not any(box.overlaps(other) for other in obstacles)

        # Clear of everything, or else at least of other markers and names.
        if any(free(o, taken + bars) for o in OFFSETS) or any(free(o, taken) for o in OFFSETS):
            taken.append(text.get_window_extent(renderer))
            texts.append(text)
        else:
            for each in (*texts, text):
                each.remove()
            return


# Points away from the marker, nearest and most readable first.
OFFSETS = [
    *((6, 4), (-6, 4), (6, -4), (-6, -4)),
    *((0, 7), (0, -7), (8, 0), (-8, 0)),
    *((7, 11), (-7, 11), (7, -11), (-7, -11)),
]
