"""Names beside points, where there is room for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reports.plots.style import Entry, fix_layout, legend, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """One mark with its error bars, in data coordinates, each bar from end to end."""

    name: str
    color: str
    x: float
    y: float
    xbar: tuple[float, float]
    ybar: tuple[float, float]

    def draw(self, ax: Axes, marker: str, look: dict[str, Any]) -> None:
        (left, right), (low, high) = self.xbar, self.ybar
        xerr, yerr = [[self.x - left], [right - self.x]], [[self.y - low], [high - self.y]]
        ax.errorbar(
            self.x, self.y, yerr, xerr, fmt="none", ecolor=self.color, elinewidth=1, alpha=0.45, capsize=2, zorder=2
        )
        ax.plot(self.x, self.y, marker, zorder=4, **look)


def finish(fig: Figure, drawn: Sequence[tuple[Axes, Sequence[Point]]], entries: Sequence[Entry]) -> Figure:
    """Legend, layout, and then the names, which need to know where everything stands."""
    legend(fig, entries)
    fix_layout(fig)
    for ax, points in drawn:
        label(ax, points)
    return fig


def label(ax: Axes, points: Sequence[Point]) -> None:
    """Writes each name once, beside the first of its points that has room; the legend names those that find none."""
    from matplotlib.colors import to_rgb
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    root: Any = ax.get_figure(root=True)
    renderer = root.canvas.get_renderer()
    reach = 4.5 * root.dpi / 72  # a marker's radius in pixels
    centres = [ax.transData.transform((point.x, point.y)) for point in points]
    taken = [Bbox.from_extents(x - reach, y - reach, x + reach, y + reach) for x, y in centres]
    bars = [Bbox(ax.transData.transform([(p.xbar[0], p.y), (p.xbar[1], p.y)])) for p in points]
    bars += [Bbox(ax.transData.transform([(p.x, p.ybar[0]), (p.x, p.ybar[1])])) for p in points]
    named: set[str] = set()
    for point in sorted(points, key=lambda point: point.x):
        if point.name in named:
            continue
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
            named.add(point.name)
        else:
            text.remove()


# Points away from the marker, nearest and most readable first.
OFFSETS = [
    *((6, 4), (-6, 4), (6, -4), (-6, -4)),
    *((0, 7), (0, -7), (8, 0), (-8, 0)),
    *((7, 11), (-7, 11), (7, -11), (-7, -11)),
]
