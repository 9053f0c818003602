"""What all plots share: colours, fonts, frames, legends, and files that are the same bytes from the same rows."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reports.row import BASELINE, Row
from reports.text import clean

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK = "#000000"  # the baseline
GREY = "#777777"
PALE = "#e6e6e6"
# Okabe and Ito's palette, told apart with every common colour blindness; yellow is left out, it vanishes on white.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]
# The second and third time round the palette differ by these.
FILLS: list[Any] = ["full", "none", "left"]
DASHES: list[Any] = ["-", (0, (5, 1.5)), (0, (1.2, 1.2))]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
BROKEN = (0, (4, 2))
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs, hence the same bytes, everywhere
    "font.size": 9,
    "axes.titlesize": 10,
    "svg.hashsalt": "compress",  # element ids would be random otherwise
    "svg.fonttype": "path",
    "text.usetex": False,
    "text.parse_math": False,  # a name with $ is no formula
    "axes.linewidth": 0.8,
}


def png_svg(draw: Callable[[], Figure]) -> tuple[bytes, str]:
    """A figure as PNG (200 dots an inch) and as SVG, whatever style the user has set."""
    from matplotlib import rc_context, rcdefaults, rcParams

    png, svg = io.BytesIO(), io.BytesIO()
    with rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # foreign names show boxes then
        rcdefaults()
        rcParams.update(STYLE)
        fig = draw()
        fig.savefig(png, format="png", dpi=200, metadata={"Software": None})
        fig.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return png.getvalue(), svg.getvalue().decode()


def panels(count: int, size: tuple[float, float], across: int = 3, **more: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, at most `across` beside one another.

    Args:
        size: width and height of one panel in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = 2 if count == 4 and across == 3 else min(across, count)
    down = math.ceil(count / across)
    fig = Figure(figsize=(max(5.2, size[0] * across), size[1] * down + 0.2), layout="constrained")
    FigureCanvasAgg(fig)
    axes = list(fig.subplots(down, across, squeeze=False, **more).flat)
    for ax in axes[count:]:
        ax.remove()
    return fig, axes[:count]


def frame(ax: Axes, title: str, x: str = "", y: str = "", grid: Any = "both") -> None:
    """Title, labels, and nothing that is no data."""
    ax.set_title(short(title))
    ax.set_xlabel(x)
    if y:
        ax.set_ylabel(y)
    ax.grid(color=PALE, lw=0.6, axis=grid)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def leftmost(ax: Axes) -> bool:
    where = ax.get_subplotspec()
    return where is None or where.is_first_col()


def logarithmic(ax: Axes) -> None:
    """Makes the x axis logarithmic, with ticks that read as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def short(text: str, most: int = 48) -> str:
    text = clean(text)
    return text if len(text) <= most else text[: most - 3] + "..."


def looks(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """How the marker of each variant is drawn: a colour, and a filling where the colours do not suffice."""
    found: dict[str, dict[str, Any]] = {}
    for name, (color, round_) in _turns(rows).items():
        fill = FILLS[round_]
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.8}
        if fill != "full":
            edge = {"markeredgecolor": color, "markeredgewidth": 1.4}
        found[name] = {"color": color, "fillstyle": fill, "markersize": 7, **edge}
    return found


def strokes(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """How the line of each variant is drawn; colours as in `looks`."""
    return {name: {"color": color, "ls": DASHES[round_]} for name, (color, round_) in _turns(rows).items()}


def _turns(rows: Iterable[Row]) -> dict[str, tuple[str, int]]:
    """The colour of each variant, in order of first appearance, and how often the palette was used up before."""
    rows = list(rows)
    names = dict.fromkeys(row.label for row in rows)
    black = BASELINE if BASELINE in names else next((row.label for row in rows if row.dense), BASELINE)
    others = [name for name in names if name != black]
    found = {name: (PALETTE[i % len(PALETTE)], i // len(PALETTE) % len(FILLS)) for i, name in enumerate(others)} | {
        black: (BLACK, 0)
    }
    return {name: found[name] for name in names}


def runtime_markers(rows: Iterable[Row]) -> dict[str, str]:
    return {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(dict.fromkeys(row.runtime for row in rows))}


Entry = tuple[str, Mapping[str, Any]]  # of a legend: a name, and how its line is drawn


def marker_entries(rows: list[Row], drawn: list[Row]) -> list[Entry]:
    """Variants by colour and runtimes by shape, those of `drawn`, looking as they do among all `rows`."""
    variants, runtimes = ({getattr(row, name) for row in drawn} for name in ("label", "runtime"))
    found: list[Entry] = [
        (name, {"marker": "o", "ls": "", **look}) for name, look in looks(rows).items() if name in variants
    ]
    plain = {"color": GREY, "ls": "", "markersize": 7, "mec": "white"}
    return found + [(n, {"marker": mark, **plain}) for n, mark in runtime_markers(rows).items() if n in runtimes]


def legend(fig: Figure, entries: Sequence[Entry]) -> None:
    """Below all panels; the figure grows by its height."""
    from matplotlib.lines import Line2D

    handles: list[Artist] = [Line2D([], [], **look) for _, look in entries]
    names = [short(name) for name, _ in entries]
    room = 13 * fig.get_figwidth()  # in characters
    one_row = sum(len(name) + 7 for name in names) <= room
    ncols = len(names) if one_row else max(1, min(6, int(room / (max(map(len, names)) + 7))))
    fig.set_figheight(fig.get_figheight() + 0.24 * math.ceil(len(names) / ncols))
    numbers = [str(i) for i in range(len(names))]
    box = fig.legend(handles, numbers, loc="outside lower center", ncols=ncols, frameon=False)
    for text, name in zip(box.get_texts(), names, strict=True):  # set late: a name that starts with _ would be dropped
        text.set_text(name)


def fix_layout(fig: Figure) -> None:
    """Fixes the layout, so that places on the page can be asked for."""
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
