"""A sweep at a glance: accuracy against work, and against each setting that was swept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from reports.plots.labels import Marks, Point, finish
from reports.plots.pareto import FRONT, front
from reports.plots.style import BLACK, GREY, MARKERS, PALETTE, Entry, frame, logarithmic, short
from reports.text import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from reports.sweep import Trial

ACCURACY = "validation accuracy, %"
SPREAD = 0.16  # of marks around their value, as a share of the distance between two
MEAN: Entry = ("mean of a value", {"color": GREY, "lw": 1.4})


def overview(done: Sequence[Trial], best: Sequence[Trial], settings: Sequence[str]) -> Figure:
    """On the left accuracy against MACs, on the right a panel for each setting.

    Args:
        done: trials with an accuracy, one at least.
        best: those on the Pareto front.
        settings: names of what is swept.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    down = min(len(settings), 3)
    across = -(-len(settings) // down)
    fig = Figure(figsize=(5.4 + 2.9 * across, max(4.2, 2.1 * down)), layout="constrained")
    FigureCanvasAgg(fig)
    cells = fig.add_gridspec(down, 1 + across, width_ratios=[2.0, *[1.0] * across])
    main = fig.add_subplot(cells[:, 0])
    done = sorted(done, key=lambda trial: trial.number)
    look, entries = _looks(done, settings)
    marks = _against_macs(main, done, best, settings, look)
    for index, name in enumerate(settings):
        ax = fig.add_subplot(cells[index % down, 1 + index // down], sharey=main)
        _against_setting(ax, done, name, short_names(settings)[name], look)
    means = [MEAN] if any(_even(done, name) for name in settings) else []
    return finish(fig, [(main, marks)], [*entries, *means, FRONT])


def short_names(settings: Sequence[str]) -> dict[str, str]:
    """Each setting by the last part of its name, where no other has the same."""
    last = [name.rpartition(".")[2] for name in settings]
    return {name: end if last.count(end) == 1 else name for name, end in zip(settings, last, strict=True)}


def value_text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else clean(value)


def values_of(done: Sequence[Trial], name: str) -> list[Any]:
    """Distinct values of a setting, in order; as they come where they are not numbers."""
    found = list(dict.fromkeys(trial.point[name] for trial in done))
    return sorted(found) if all(isinstance(value, int | float) for value in found) else found


def _looks(done: Sequence[Trial], settings: Sequence[str]) -> tuple[Callable[[Trial], tuple[str, str]], list[Entry]]:
    """Colour and marker of a trial, after the first two settings of few values; and their legend."""
    names, few = short_names(settings), [n for n in settings if 1 < len(values_of(done, n)) <= len(PALETTE)]
    first, second = [*few, None, None][:2]
    colors = dict(zip(values_of(done, first), PALETTE, strict=False)) if first else {}
    shapes = dict(zip(values_of(done, second), MARKERS, strict=False)) if second else {}
    entries: list[Entry] = [
        (
            f"{names[first]} {value_text(value)}",
            {"color": color, "marker": "o", "ls": "", "mec": "white", "markersize": 7},
        )
        for value, color in colors.items()
    ]
    entries += [
        (
            f"{names[second]} {value_text(value)}",
            {"color": GREY, "marker": shape, "ls": "", "mec": "white", "markersize": 7},
        )
        for value, shape in shapes.items()
    ]

    def look(trial: Trial) -> tuple[str, str]:
        return colors.get(trial.point.get(first), BLACK), shapes.get(trial.point.get(second), "o")

    return look, entries


def _against_macs(
    ax: Axes,
    done: Sequence[Trial],
    best: Sequence[Trial],
    settings: Sequence[str],
    look: Callable[[Trial], tuple[str, str]],
) -> Marks:
    """Draws all trials and the front; the points of those on the front have names."""
    marks = []
    for trial in done:
        color, marker = look(trial)
        x, y = (trial.macs_per_image or 0) / 1e6, 100 * (trial.top1 or 0)
        bar = [y if end is None else 100 * end for end in (trial.top1_low, trial.top1_high)]
        name = ", ".join(value_text(trial.point[each]) for each in settings) if trial in best else ""
        point = Point(name, color, x, y, (x, x), (min(y, bar[0]), max(y, bar[1])))
        ax.errorbar(x, y, [[y - point.ybar[0]], [point.ybar[1] - y]], ecolor=color, fmt="none", alpha=0.25, zorder=2)
        marks.append((point, ax.plot(x, y, marker, color=color, markersize=7, mec="white", mew=0.8, zorder=4)[0]))
    xs = [point.x for point, _ in marks]
    if min(xs) > 0 and max(xs) > 5 * min(xs):
        logarithmic(ax)
    ax.margins(x=0.12, y=0.08)
    line = front([(point.x, point.y) for point, _ in marks])
    right = ax.get_xlim()[1]
    ax.plot(
        [x for x, _ in line] + [right], [y for _, y in line] + [line[-1][1]],
        drawstyle="steps-post", zorder=1, scalex=False, scaley=False, **FRONT[1],
    )  # fmt: skip
    ax.set_xlim(right=right)
    named = ", ".join(short_names(settings).values())
    frame(ax, f"Labels: {named}", "MMACs of one image (FLOPs are twice that)", f"{ACCURACY} (bars: 95 %)")
    return marks


def _even(done: Sequence[Trial], name: str) -> bool:
    """Whether a setting has so few values that they can stand evenly, whatever they are."""
    values = values_of(done, name)
    return len(values) <= len(MARKERS) or not all(isinstance(value, int | float) for value in values)


def _against_setting(
    ax: Axes, done: Sequence[Trial], name: str, label: str, look: Callable[[Trial], tuple[str, str]]
) -> None:
    """Every trial at its value, and a line through the mean of each value where there are few."""
    values, even = values_of(done, name), _even(done, name)
    for value in values:
        group = [trial for trial in done if trial.point[name] == value]
        for index, trial in enumerate(group):
            color, marker = look(trial)
            aside = SPREAD * (2 * index / (len(group) - 1) - 1) if len(group) > 1 else 0
            x = values.index(value) + aside if even else value
            ax.plot(x, 100 * (trial.top1 or 0), marker, color=color, markersize=5, mec="white", mew=0.5, zorder=3)
    if even:
        groups = [[100 * (trial.top1 or 0) for trial in done if trial.point[name] == value] for value in values]
        ax.plot(range(len(values)), [sum(group) / len(group) for group in groups], zorder=2, **MEAN[1])
        ax.set_xticks(range(len(values)), [short(value_text(value), 10) for value in values])
        ax.set_xlim(-0.5, len(values) - 0.5)
    elif min(values) > 0 and max(values) > 20 * min(values):
        logarithmic(ax)
    frame(ax, "", label, "accuracy, %")
