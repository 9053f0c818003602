"""Accuracy against latency, one panel for each table: which variants are worth having."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reports.row import Row
from reports.table import BASELINE, conditions, groups
from reports.text import clean, measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK = "#000000"  # the baseline
# Okabe and Ito's palette, told apart with every common colour blindness; yellow is left out, it vanishes on white.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]
FILLS: list[Any] = ["full", "none", "left"]  # the second and third time round the palette
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
GREY = "#777777"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs, hence the same bytes, everywhere
    "font.size": 9,
    "svg.hashsalt": "pareto",  # element ids would be random otherwise
    "svg.fonttype": "path",
    "text.usetex": False,
    "axes.linewidth": 0.8,
}


def plotted(rows: list[Row]) -> list[Row]:
    """The rows that have both a latency and an accuracy, without which there is no point to draw."""
    return [row for row in rows if measured(row.latency_s) and measured(row.top1) is not None]


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, gain) points that no other beats on both, in order of cost."""
    best: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or gain > best[-1][1]:
            best.append((cost, gain))
    return best


def pareto_png_svg(rows: list[Row]) -> tuple[bytes, str]:
    """The plot as PNG (200 dots an inch) and as SVG.

    Raises:
        ValueError: no row has both a latency and an accuracy.
    """
    from matplotlib import rc_context, rcdefaults, rcParams

    rows = plotted(rows)
    if not rows:
        raise ValueError("no row has both a latency and an accuracy, so there is nothing to plot")
    png, svg = io.BytesIO(), io.BytesIO()
    with rc_context():  # whatever style the user has, comes back afterwards
        rcdefaults()
        rcParams.update(STYLE)
        fig = draw(rows)
        fig.savefig(png, format="png", dpi=200, metadata={"Software": None})
        fig.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return png.getvalue(), svg.getvalue().decode()


def draw(rows: list[Row]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = groups(rows)
    across = 2 if len(panels) == 4 else min(3, len(panels))
    down = math.ceil(len(panels) / across)
    looks = appearance(list(dict.fromkeys(row.variant for row in rows)))
    markers = {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(dict.fromkeys(row.runtime for row in rows))}
    same_data = len({row.dataset for row in rows}) == 1
    machines = len({row.device_name for row in rows}) > len({row.device for row in rows})

    fig = Figure(figsize=(max(5.2, 4.3 * across), 3.7 * down + 0.2), layout="constrained")
    FigureCanvasAgg(fig)
    grid = fig.subplots(down, across, squeeze=False, sharey=same_data)
    axes = list(grid.flat)
    for ax in axes[len(panels) :]:
        ax.remove()
    for ax, panel in zip(axes, panels, strict=False):
        draw_panel(ax, panel, looks, markers, machines)
    for line in grid:
        line[0].set_ylabel("top-1 accuracy, % (bars: 95 % interval)")
    legend(fig, looks, markers)
    fig.draw_without_rendering()  # settles the layout, which the labels need
    fig.set_layout_engine("none")
    for ax, panel in zip(axes, panels, strict=False):
        label(ax, panel, looks)
    return fig


def draw_panel(
    ax: Axes, rows: list[Row], looks: dict[str, dict[str, Any]], markers: dict[str, str], machines: bool
) -> None:
    points = [place(row) for row in rows]
    for row, (x, y) in zip(rows, points, strict=True):
        ((left, _), (right, _)), ((_, low), (_, high)) = spread(row)
        xerr, yerr = [[x - left], [right - x]], [[y - low], [high - y]]
        look = looks[row.variant]
        ax.errorbar(x, y, yerr, xerr, fmt="none", ecolor=look["color"], elinewidth=1, alpha=0.45, capsize=2, zorder=2)
        ax.plot(x, y, markers[row.runtime], zorder=4, **look)
    xs = [x for x, _ in points]
    if max(xs) > 5 * min(xs):
        logarithmic(ax)
    else:
        ax.locator_params(axis="x", nbins=6)
    ax.margins(x=0.16, y=0.1)
    ax.autoscale_view()
    right = ax.get_xlim()[1]
    best = front(points)
    ax.plot(
        [x for x, _ in best] + [right], [y for _, y in best] + [best[-1][1]], color=GREY, lw=1.2, ls=(0, (4, 2)),
        drawstyle="steps-post", zorder=1, scalex=False, scaley=False,
    )  # fmt: skip
    ax.set_xlim(right=right)
    title = conditions(rows[0], device_name=machines)
    ax.set_title(short(title), parse_math=False, fontsize=10)
    ax.set_xlabel("latency of one batch, ms (median; bars: p10 to p90)")
    ax.grid(color="#e6e6e6", lw=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def logarithmic(ax: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def place(row: Row) -> tuple[float, float]:
    """Where a row stands: (median latency in ms, top-1 in %)."""
    return 1e3 * (row.latency_s or 0), 100 * (row.top1 or 0)


def spread(row: Row) -> tuple[tuple[tuple[float, float], ...], ...]:
    """The two error bars of a row, each from end to end: p10 to p90 in ms, and the interval of top-1 in %."""
    x, y = place(row)
    left, right = 1e3 * (row.latency_p10_s or 0), 1e3 * (row.latency_p90_s or 0)
    low, high = (y if measured(end) is None else 100 * (end or 0) for end in (row.top1_low, row.top1_high))
    return ((min(left, x), y), (max(right, x), y)), ((x, min(low, y)), (x, max(high, y)))


def short(text: str, most: int = 48) -> str:
    text = clean(text)
    return text if len(text) <= most else text[: most - 3] + "..."


def appearance(variants: list[str]) -> dict[str, dict[str, Any]]:
    """How the markers of each variant are drawn: a colour, and a filling where the colours do not suffice."""
    looks: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(name for name in variants if name != BASELINE):
        fill = FILLS[i // len(PALETTE) % len(FILLS)]
        looks[name] = {"color": PALETTE[i % len(PALETTE)], "fillstyle": fill}
    looks |= {BASELINE: {"color": BLACK, "fillstyle": "full"}} if BASELINE in variants else {}
    for look in looks.values():
        edge = "white" if look["fillstyle"] == "full" else look["color"]
        look |= {"markersize": 7, "markeredgecolor": edge, "markeredgewidth": 0.8 if edge == "white" else 1.4}
    return {name: looks[name] for name in variants}


def legend(fig: Figure, looks: dict[str, dict[str, Any]], markers: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker="o", ls="", **look) for look in looks.values()]
    handles += [Line2D([], [], color=GREY, marker=m, ls="", markersize=7, mec="white") for m in markers.values()]
    handles.append(Line2D([], [], color=GREY, lw=1.2, ls=(0, (4, 2))))
    names = [short(name) for name in [*looks, *markers]] + ["Pareto front"]
    room = 13 * fig.get_figwidth()  # in characters
    one_row = sum(len(name) + 7 for name in names) <= room
    ncols = len(names) if one_row else max(1, min(6, int(room / (max(map(len, names)) + 7))))
    fig.set_figheight(fig.get_figheight() + 0.24 * math.ceil(len(names) / ncols))
    numbers = [str(i) for i in range(len(names))]
    box = fig.legend(handles, numbers, loc="outside lower center", ncols=ncols, frameon=False)
    for text, name in zip(box.get_texts(), names, strict=True):  # set late: a name that starts with _ would be dropped
        text.set_parse_math(False)  # and one with $ is no formula
        text.set_text(name)


def label(ax: Axes, rows: list[Row], looks: dict[str, dict[str, Any]]) -> None:
    """Writes each variant's name beside its point where there is room; the legend names those that find none."""
    from matplotlib.colors import to_rgb
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    root: Any = ax.get_figure(root=True)
    renderer = root.canvas.get_renderer()
    reach = 4.5 * root.dpi / 72  # a marker's radius in pixels
    centres = [ax.transData.transform(place(row)) for row in rows]
    taken = [Bbox.from_extents(x - reach, y - reach, x + reach, y + reach) for x, y in centres]
    bars = [Bbox(ax.transData.transform(box)) for row in rows for box in spread(row)]
    for row in rows:
        text = ax.annotate(
            short(row.variant, 24), place(row), textcoords="offset points", xytext=(0, 0), fontsize=8,
            color=[0.75 * part for part in to_rgb(looks[row.variant]["color"])], parse_math=False, zorder=5,
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
        else:
            text.remove()


# Points away from the marker, nearest and most readable first.
OFFSETS = [
    *((6, 4), (-6, 4), (6, -4), (-6, -4)),
    *((0, 7), (0, -7), (8, 0), (-8, 0)),
    *((7, 11), (-7, 11), (7, -11), (-7, -11)),
]
