"""What the scripts of the page draw: rows -> plain lists and words, ready for JSON, every text already cleaned."""

import json
import math
from typing import Any

from reports.columns import COLUMNS, SHOWN, Column
from reports.plots.style import looks
from reports.results import Result, describe_conditions, group_rows
from reports.row import Row, RowError
from reports.text import clean, measured, percent

# Column: (label of the axis, display units in one base unit, which way is better, ends of its bar)
AXES: dict[str, tuple[str, float, int, tuple[str, ...]]] = {
    "latency_s": ("latency of one batch, ms", 1e3, -1, ("latency_p10_s", "latency_p90_s")),
    "images_per_s": ("images/s", 1, 1, ()),
    "macs_per_image": ("MMACs executed for one image", 1e-6, -1, ()),
    "file_bytes": ("file, MB", 1e-6, -1, ()),
    "peak_memory_bytes": ("peak memory, MB", 1e-6, -1, ()),
    "params": ("parameters, millions", 1e-6, -1, ()),
    "top1": ("top-1 accuracy, %", 100, 1, ("top1_low", "top1_high")),
    "agreement": ("agreement with the baseline, %", 100, 1, ()),
    "speedup": ("speed-up in the same engine", 1, 1, ("speedup_low", "speedup_high")),
    "overall": ("speed-up vs PyTorch fp32", 1, 1, ("overall_low", "overall_high")),
}
Y_AXES = ("top1", "agreement", "speedup", "overall")
MARKERS = {"circle": "●", "square": "■", "triangle": "▲", "diamond": "◆", "inverted_triangle": "▼", "star": "★"}
SIGNS = {"full": "●", "none": "○", "left": "◐"}  # of the fillings in `plots.style`
ALPHAS = {"full": 1.0, "none": 0.0, "left": 0.4}


def plot_data(rows: list[Row]) -> dict[str, Any]:
    """What the page's script reads; a part is missing where no row has anything for it. Ready for JSON."""
    parts = {"pareto": points(rows), "confusion": confusions(rows), "training": trainings(rows)}
    parts["gallery"] = galleries(rows)
    parts = {name: part for name, part in parts.items() if part}
    if not parts:
        return {}
    shown = {
        clean(name): {"color": look["color"], "alpha": ALPHAS[look["fillstyle"]], "sign": SIGNS[look["fillstyle"]]}
        for name, look in looks(rows).items()
    }
    return parts | {"looks": shown}


def points(rows: list[Row]) -> dict[str, Any]:
    """Every row by group, with [middle, low, high] in display units for each axis on which it was measured."""
    several_sets = len({row.dataset for row in rows}) > 1
    several_machines = len({row.device_name for row in rows}) > len({row.device for row in rows})
    shown = [c for c in SHOWN if c.needed(rows) and c.key not in ("variant", "runtime")]
    found = []
    for group in group_rows(rows):
        members = [point(result, shown) for result in group.results if result.row.completed]
        members = [p for p in members if any(y in p["values"] for y in Y_AXES) and set(p["values"]) - set(Y_AXES)]
        if len(members) > 1:  # a single point compares nothing
            label = describe_conditions(group.rows[0], dataset=several_sets, device_name=several_machines)
            found.append({"label": label, "points": members})
    if not found:
        return {}
    used = {key for group in found for p in group["points"] for key in p["values"]}
    runtimes = list(dict.fromkeys(p["runtime"] for group in found for p in group["points"]))
    signs = list(MARKERS.items())
    return {
        "axes": {key: {"label": label, "better": way} for key, (label, _, way, _) in AXES.items() if key in used},
        "y": [key for key in Y_AXES if key in used],
        "groups": found,
        "markers": {name: signs[i % len(signs)] for i, name in enumerate(runtimes)},
    }


def point(result: Result, shown: list[Column]) -> dict[str, Any]:
    """One row on all axes, and what its line of the table says."""
    columns = {column.key: column for column in COLUMNS}
    row, values = result.row, {}
    for key, (_, unit, _, ends) in AXES.items():
        middle = measured(columns[key].value(result))
        if middle is None or not columns[key].show(result) or (key not in Y_AXES and middle <= 0):  # x is logarithmic
            continue
        bar = [middle, *(end for name in ends if (end := measured(getattr(row, name))) is not None)]
        values[key] = [unit * middle, unit * min(bar), unit * max(bar)]
    text = "\n".join(f"{c.header}: {fact}" for c in shown if (fact := c.show(result)))
    return {"variant": clean(row.label), "runtime": clean(row.runtime), "text": text, "values": values}


def confusions(rows: list[Row]) -> list[dict[str, Any]]:
    """Each distinct matrix or list of recalls of a variant once, and whether a winner's; several name their row."""
    found: dict[str, tuple[Row, dict[str, Any]]] = {}
    winners = {winner.row.label for group in group_rows(rows) for winner in group.winners}
    for row in rows:
        if row.classes and (row.confusion or row.class_recall):
            recall = [None if share is None else measured(share) for share in row.class_recall or []]
            part = {
                "label": title(row, rows), "classes": list(map(clean, row.classes)), "matrix": row.confusion,
                "recall": recall, "shown": [percent(share) for share in recall], "winner": row.label in winners,
            }  # fmt: skip
            found.setdefault(json.dumps(part), (row, part))
    labels = [part["label"] for _, part in found.values()]
    for row, part in found.values():
        if labels.count(part["label"]) > 1:
            part["label"] += f" in {clean(row.runtime)}, {describe_conditions(row, dataset=False)}"
    return [part for _, part in found.values()]


def title(row: Row, rows: list[Row]) -> str:
    """The variant, and of dataset and seed what is not the same for all rows."""
    parts = [row.label]
    parts += [row.dataset] if len({other.dataset for other in rows}) > 1 else []
    parts += [f"seed {row.seed}"] if len({other.seed for other in rows}) > 1 else []
    return clean(", ".join(parts))


def trainings(rows: list[Row]) -> list[dict[str, Any]]:
    """The curves of each variant: the first record that is found, as lists over the epochs."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if len(row.training or []) > 1:  # a single epoch is no curve
            lists: dict[str, list[float | None]] = {}
            for name, unit in (("epoch", 1), ("loss", 1), ("train_top1", 100), ("validation_top1", 100)):
                values = [measured(record.get(name)) for record in row.training or []]
                lists[name] = [None if value is None else unit * value for value in values]
            label = title(row, rows)
            found.setdefault(label, {"label": label, "variant": clean(row.label)} | lists)
    return list(found.values())


def galleries(rows: list[Row]) -> list[dict[str, Any]]:
    """The images of each variant, with what the model said in words.

    Raises:
        RowError: the examples of a row cannot be read.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.examples:
            try:
                images = [image(example, row) for example in row.examples]
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise RowError(f"the examples of {clean(row.label)} cannot be read; measure it again") from error
            label = title(row, rows)
            found.setdefault(label, {"label": label, "depth": max(i["depth"] for i in images), "images": images})
    return list(found.values())


def image(example: dict[str, Any], row: Row) -> dict[str, Any]:
    """An entry of `Row.examples`, its classes by name; `blocks` and `rollout` row after row of the grid."""
    classes = row.classes or []

    def name(index: int) -> str:
        return clean(classes[index]) if 0 <= index < len(classes) else f"class {index}"

    blocks = [int(ran) for ran in example["blocks"]]
    height, width = (int(size) for size in example["grid"])
    rollout = [float(share) for share in example.get("rollout") or []]
    if len(blocks) != height * width or len(rollout) not in (0, len(blocks)) or not all(map(math.isfinite, rollout)):
        raise ValueError("one value for each patch")
    return {
        "png": str(example["png"]),
        "index": int(example["index"]),
        "grid": [height, width],
        "blocks": blocks,
        "rollout": rollout,
        "depth": int(example["depth"]),
        "right": example["label"] == example["predicted"],
        "label": name(example["label"]),
        "predicted": name(example["predicted"]),
        "confidence": percent(example.get("confidence")),
    }
