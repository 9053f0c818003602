"""The trials of a sweep -> table, CSV and page."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reports.plots import sweep as plots
from reports.plots.pareto import front
from reports.plots.style import png_svg
from reports.text import bullets, disarm, escape, figure, grid, interval, percent

State = Literal["done", "impossible", "failed", "running", "waiting"]
STATES: dict[State, str] = {  # in the order of the table
    "done": "done",
    "impossible": "impossible",
    "failed": "failed",
    "running": "running elsewhere or interrupted",
    "waiting": "still to do",
}


@dataclass(frozen=True)
class Trial:
    """One choice of settings, and what came of it. None where it was not measured."""

    number: int  # from 1
    state: State
    point: dict[str, Any]  # value of each setting that is swept, by its name with a dot
    top1: float | None = None  # of validation images, with its 95 % Wilson interval
    top1_low: float | None = None
    top1_high: float | None = None
    n_images: int | None = None  # validation images
    macs_per_image: int | None = None
    params: int | None = None
    train_s: float | None = None
    images_per_s: float | None = None  # while training
    reason: str | None = None  # why it is impossible or failed
    alive: float | None = None  # when its process last gave a sign of life, in seconds since 1970


@dataclass(frozen=True)
class Report:
    """A sweep as it stands."""

    name: str
    dataset: str
    sampler: str
    settings: tuple[str, ...]  # names of what is swept, each with a dot
    trials: tuple[Trial, ...]

    @property
    def done(self) -> list[Trial]:
        """Best first."""
        return sorted((trial for trial in self.trials if trial.state == "done"), key=lambda each: -(each.top1 or 0))

    @property
    def front(self) -> list[Trial]:
        """Those that no other beats on both accuracy and MACs, cheapest first."""
        best = front([(trial.macs_per_image or 0, trial.top1 or 0) for trial in self.done])
        found = [t for t in self.done if ((t.macs_per_image or 0), (t.top1 or 0)) in best]
        return sorted(found, key=lambda each: each.macs_per_image or 0)


def render(report: Report) -> dict[str, bytes]:
    """Every file that is made from a sweep, by name; the plot where a trial is done."""
    made = {"sweep.md": markdown(report).encode(), "sweep.csv": csv_text(report).encode()}
    if report.done:
        png, svg = png_svg(lambda: plots.overview(report.done, report.front, report.settings))
        made |= {"sweep.png": png, "sweep.svg": svg.encode()}
    return made


def markdown(report: Report) -> str:
    """The page: what was tried, the table, best first, and how to read it."""
    counts = Counter(trial.state for trial in report.trials)
    states = ", ".join(f"{counts[state]} {words}" for state, words in STATES.items() if counts[state])
    parts = [
        f"# Sweep {escape(report.name)}",
        f"{len(report.trials)} trials on {escape(report.dataset)}, {report.sampler}: {states}.",
    ]
    if report.done:
        parts += [
            "![Accuracy against multiply-accumulates, and against each setting](sweep.svg)",
            bullets(_notes(report)),
        ]
    return "\n\n".join([*parts, "## Trials", table(report)]) + "\n"


def table(report: Report) -> str:
    """All trials as a Markdown table: those that are done by accuracy, then the others."""
    best, order = report.front, list(STATES)
    others = [trial for trial in report.trials if trial.state != "done"]
    rows = []
    for trial in [*report.done, *sorted(others, key=lambda each: order.index(each.state))]:
        low, high = (percent(end, trial.n_images) for end in (trial.top1_low, trial.top1_high))
        rows.append(
            [
                str(trial.number),
                "yes" if trial in best else "",
                *(escape(plots.value_text(trial.point.get(name, ""))) for name in report.settings),
                interval(percent(trial.top1, trial.n_images), low, high),
                figure(trial.macs_per_image, 1e6),
                figure(trial.params, 1e6),
                figure(trial.train_s),
                figure(trial.images_per_s),
                escape("" if trial.state == "done" else ": ".join(filter(None, (STATES[trial.state], trial.reason)))),
            ]
        )
    names = [escape(name) for name in plots.short_names(report.settings).values()]
    header = ["trial", "Pareto", *names, "accuracy, %", "MMACs", "params, M", "training, s", "images/s", "note"]
    return grid(header, rows, [True, False, *[True] * (len(names) + 5), False])


def csv_text(report: Report) -> str:
    """One line a trial, as the table has them: unrounded, in base units, empty where not measured."""
    out, best = io.StringIO(), report.front
    fields = ("top1", "top1_low", "top1_high", "n_images", "macs_per_image", "params", "train_s", "images_per_s")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["trial", "state", "pareto", *report.settings, *fields, "reason"])
    for trial in [*report.done, *(each for each in report.trials if each.state != "done")]:
        values = [trial.point.get(name) for name in report.settings] + [getattr(trial, name) for name in fields]
        cells = [trial.number, trial.state, int(trial in best), *values, trial.reason]
        writer.writerow([disarm(cell) for cell in cells])
    return out.getvalue()


def describe(point: Mapping[str, Any]) -> str:
    """`patch_size 2, dim 64`."""
    names = plots.short_names(list(point))
    return ", ".join(f"{names[name]} {plots.value_text(value)}" for name, value in point.items())


def _notes(report: Report) -> list[str]:
    best = report.done[0]
    inside = sum((trial.top1 or 0) >= (best.top1_low or 0) for trial in report.done[1:])
    notes = [
        f"Accuracy is that of {best.n_images} images held out of the training images, with its 95 % Wilson interval; "
        "test images were not looked at.",
        "Pareto: no other trial is both cheaper in MACs and more accurate. MMACs are millions of multiply-accumulates "
        "of one image; FLOPs are twice that.",
    ]
    if inside:
        notes.append(
            f"{inside} other {'trial lies' if inside == 1 else 'trials lie'} within the interval of the best: "
            "so many images do not tell them apart with certainty."
        )
    return notes
