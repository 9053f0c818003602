"""The page that explains a run: findings, tables, plots, what every column means, and how to run it again."""

from collections.abc import Callable

from reports.accuracy import accuracy, per_class
from reports.columns import SHOWN
from reports.cost import counters, integers, promised
from reports.findings import findings
from reports.pictures import captions
from reports.plots import PLOTS
from reports.plots.training import trained
from reports.recovery import recovery
from reports.row import Row
from reports.setup import commands, configuration, environment, variants
from reports.table import markdown_table
from reports.text import bullets, escape
from reports.timing import break_even, difficulty, timing
from reports.verdict import verdict_md


def comparison(rows: list[Row]) -> str:
    return f"{markdown_table(rows)}\n\nUnrounded, in base units: [rows.csv](rows.csv)." if rows else ""


def legend(rows: list[Row]) -> str:
    lines = [f"**{column.header}**: {column.meaning}." for column in SHOWN if column.needed(rows)]
    lines.append(
        "An empty cell was not measured. A number in brackets behind a variant points to a note below the table."
    )
    return bullets(lines)


def training(rows: list[Row]) -> str:
    return "The loss holds all terms a method adds, so it compares epochs, not variants." if trained(rows) else ""


def images(rows: list[Row]) -> str:
    """The pictures that lie beside the page, each under what it shows."""
    shown = [f"{escape(caption)}\n\n![{escape(caption)}]({name})" for name, caption in captions(rows)]
    return "\n\n".join(["## On real images", *shown]) if shown else ""


# In order: title, text, and the plots that follow it. A section appears when it has either.
SECTIONS: list[tuple[str, Callable[[list[Row]], str], tuple[str, ...]]] = [
    ("Findings", findings, ("pareto", "pareto_cost")),
    ("Comparison", comparison, ()),
    ("How to read this", legend, ()),
    ("Accuracy", accuracy, ()),
    ("Class by class", per_class, ("recall", "confusion")),
    ("Promised and executed", promised, ("tokens", "realised")),
    ("Break-even", break_even, ()),
    ("Easy and hard images", difficulty, ()),
    ("Integer kernels", integers, ()),
    ("Counted four ways", counters, ()),
    ("Timing", timing, ("latency",)),
    ("Recovery", recovery, ("recovery",)),
    ("Training", training, ("training",)),
    ("Variants", variants, ()),
    ("Environment", environment, ()),
    ("Configuration", configuration, ()),
]


def report_md(rows: list[Row]) -> str:
    """The whole page. It shows the plots that lie beside it, as SVG."""
    parts = ["# Vision Transformers, compressed and measured", verdict_md(rows), commands(rows)]
    for title, body, plots in SECTIONS:
        pictures = [f"![{PLOTS[name].title}]({name}.svg)" for name in plots if PLOTS[name].data(rows)]
        if shown := [part for part in (body(rows), *pictures) if part]:
            parts += [f"## {title}", *shown]
        if title == "Training":  # what is seen after what is counted
            parts.append(images(rows))
    return "\n\n".join(part for part in parts if part) + "\n"
