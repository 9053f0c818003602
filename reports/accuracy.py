"""What the models get right, as sections of the page."""

from reports.classes import MOST, recalls
from reports.columns import change_text, top1_text
from reports.results import Result, relate_rows
from reports.row import BASELINE, Row
from reports.significance import ALPHA
from reports.text import escape, grid, p_value, percent


def verdict(result: Result) -> str:
    """`worse (p < 0.001)`; empty where nothing was compared."""
    return f"{result.accuracy} ({p_value(result.p)})" if result.accuracy and result.p is not None else ""


def accuracy(rows: list[Row]) -> str:
    """Once for each variant and runtime; again only where the figures differ."""
    lines = {}
    for result in relate_rows([row for row in rows if row.failed is None]):
        row = result.row
        if row.top1 is not None:
            agreement = "" if row.dense else percent(row.agreement, row.n_images)
            images = f"{row.n_images:,}" if row.n_images is not None else ""
            words = [escape(x) for x in (row.dataset, row.label, row.runtime, row.device)]
            figures = [images, top1_text(row), change_text(result), agreement]
            lines[*words, *figures, verdict(result)] = None
    if not lines:
        return ""
    header = ["dataset", "variant", "runtime", "device", "images", "top-1 % [95 %]", "change", "agreement %", "verdict"]
    table = grid(header, list(lines), [False] * 4 + [True] * 4 + [False])
    return (
        f"{table}\n\n*Change* in points, *agreement* and *verdict* are against the dense model on the same images, in "
        "the same runtime where it ran there (McNemar's test); p below "
        f"{ALPHA} is called different."
    )


def per_class(rows: list[Row]) -> str:
    """For each class the share of its test images that each variant gets right; one table for each dataset."""
    parts = []
    for each in recalls(rows):
        header = ["class", "images", *(f"{escape(name)} %" for name in each.models)]
        cells = []
        for i, (name, images) in enumerate(zip(each.classes, each.images, strict=True)):
            shares = [percent(values[i], images) for _, values in each.models.values()]
            cells.append([escape(name), "" if images is None else f"{images:,}", *shares])
        whole = each.whole.values()
        cells.append(["*all images: top-1*", "", *(percent(row.top1, row.n_images) for row in whole)])
        cells.append(["*all classes: macro recall*", "", *(percent(row.macro_recall, row.n_images) for row in whole)])
        table = grid(header, cells, [False] + [True] * (len(header) - 1))
        runtimes: dict[str, list[str]] = {}
        for name, (runtime, _) in each.models.items():
            runtimes.setdefault(runtime, []).append(f"`{name}`" if name == BASELINE else escape(name))
        text = "Share of each class's test images classified correctly: " if len(parts) == 0 else "As above: "
        text += "; ".join(f"{', '.join(names)} in {escape(runtime)}" for runtime, names in runtimes.items()) + "."
        text += " Macro recall is the mean over the classes, each counting the same." if len(parts) == 0 else ""
        if each.left_out:
            which = "that the variants differ about most" if len(each.models) > 1 else "recognised least"
            text += f" Of {MOST + each.left_out} classes the {MOST} {which}."
        parts.append(f"### {escape(each.dataset)}\n\n{table}\n\n{text}")
    return "\n\n".join(parts)
