"""The page that explains a run: findings, tables, what every column means, and how to run it again."""

import json
import math
import re
from collections.abc import Iterable
from typing import Any

from reports.plot import plotted
from reports.row import Row
from reports.table import BASELINE, SHOWN, conditions, groups, markdown_table, no_clear_gain, speedup_text, top1_text
from reports.text import clean, escape, fenced, figure, grid, p_value, percent

ALPHA = 0.05  # a difference in accuracy is called one below this p


def report_md(rows: list[Row]) -> str:
    """The whole page. It shows `pareto.svg`, beside it, when there is something to plot."""
    plot = "![Accuracy against latency: one panel for each batch size and device](pareto.svg)" if plotted(rows) else ""
    sections = [
        ("", "# Vision Transformers, compressed and measured"),
        ("", commands(rows)),
        ("Findings", findings(rows)),
        ("", plot),
        ("Comparison", f"{markdown_table(rows)}\n\nUnrounded, in base units: [rows.csv](rows.csv)." if rows else ""),
        ("How to read this", legend()),
        ("Accuracy", accuracy(rows)),
        ("Promised and executed", promised(rows)),
        ("Counted four ways", counters(rows)),
        ("Timing", timing(rows)),
        ("Variants", variants(rows)),
        ("Environment", environment(rows)),
        ("Configuration", configuration(rows)),
    ]
    return "\n\n".join(f"## {title}\n\n{body}" if title else body for title, body in sections if body) + "\n"


def bold(value: object) -> str:
    return f"**{escape(value)}**"


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def commands(rows: list[Row]) -> str:
    distinct = dict.fromkeys(clean(row.command) for row in rows if row.command)
    return fenced("\n".join(distinct), "sh") if distinct else ""


def findings(rows: list[Row]) -> str:
    """What the figures say, one sentence or two for each table."""
    if not rows:
        return "There are no measurements."
    lines = [line for group in groups(rows) if (line := finding(group))]
    failed = sum(row.failed is not None for row in rows)
    if failed:
        lines.append(f"{failed} of {len(rows)} measurements failed; the notes under the tables say why.")
    text = bullets(lines)
    if any(row.speedup is not None for row in rows):
        text += (
            f"\n\nA speed-up is against `{BASELINE}` in the same runtime, on the same device, with the same batch and "
            "threads, measured interleaved in the same session; brackets hold 95 % intervals."
        )
    return text


def finding(group: list[Row]) -> str:
    """The fastest row of one table, and who saves nothing."""
    timed = [row for row in group if row.latency_s is not None]
    if not timed:
        return ""
    best = min(timed, key=lambda row: row.latency_s or 0)
    parts = [f"{figure(best.latency_s, 1e-3)} ms ({figure(best.images_per_s)} images/s)"]
    if best.top1 is not None:
        known = best.variant != BASELINE and best.mcnemar_p is not None
        parts.append(f"top-1 {percent(best.top1, best.n_images)} %" + (f", {verdict(best)}" if known else ""))
    if best.variant == BASELINE:
        parts.append("that is the baseline itself")
    elif best.speedup is not None and saves(best):
        parts.append(f"{speedup_text(best)} times as fast as `{BASELINE}` in that runtime")
    text = f"{escape(conditions(best, device_name=False))}: the smallest latency is that of "
    text += f"{bold(best.variant)} in {escape(best.runtime)}, "
    text += "; ".join(parts) + "."
    useless = [row for row in timed if row.variant != BASELINE and row.speedup is not None and not saves(row)]
    if useless:
        text += f" No saving here: {', '.join(map(shortfall, useless))}."
    return text


def saves(row: Row) -> bool:
    """Whether it is faster than the baseline beyond doubt (where an interval is known)."""
    return row.speedup is not None and row.speedup > 1 and not no_clear_gain(row)


def shortfall(row: Row) -> str:
    how = "no clear difference" if no_clear_gain(row) else "not faster"
    return f"{bold(row.variant)} in {escape(row.runtime)} ({speedup_text(row)}, {how})"


def verdict(row: Row) -> str:
    if row.mcnemar_p is None:
        return ""
    return ("different" if row.mcnemar_p < ALPHA else "not distinguishable from the baseline") + (
        f" ({p_value(row.mcnemar_p)})"
    )


def legend() -> str:
    lines = [f"**{column.header}**: {column.meaning}." for column in SHOWN]
    lines.append(
        "An empty cell was not measured. A number in brackets behind a variant points to a note below the table."
    )
    return bullets(lines)


def accuracy(rows: list[Row]) -> str:
    """Once for each variant and runtime; again only where the figures differ."""
    lines = {}
    for row in rows:
        if row.top1 is not None:
            agreement = "" if row.variant == BASELINE else percent(row.agreement, row.n_images)
            images = f"{row.n_images:,}" if row.n_images is not None else ""
            against = "" if row.variant == BASELINE else verdict(row)
            words = [escape(x) for x in (row.dataset, row.variant, row.runtime, row.device)]
            lines[*words, images, top1_text(row), agreement, against] = None
    if not lines:
        return ""
    header = ["dataset", "variant", "runtime", "device", "images", "top-1 % [95 %]", "agreement %", "right answers"]
    table = grid(header, list(lines), [False] * 4 + [True] * 3 + [False])
    return (
        f"{table}\n\n*Right answers* are compared with those of `{BASELINE}` on the same images in the same runtime "
        f"(McNemar's test); p below {ALPHA} is called different."
    )


def promised(rows: list[Row]) -> str:
    """For variants whose work depends on the image, or is less than the arithmetic promises or more."""
    lines = {}
    for row in rows:
        spread = row.macs_quantiles if row.macs_quantiles and len(row.macs_quantiles) == 5 else [None] * 5
        tokens = row.tokens_per_block or []
        missed = not math.isclose(row.macs_promised or 0, row.macs_per_image or 0, rel_tol=1e-4)
        if missed or len(set(spread)) > 1 or len(set(tokens)) > 1:
            words = [escape(x) for x in (row.dataset, row.variant, row.runtime)]
            macs = [figure(x, 1e6) for x in [row.macs_promised, row.macs_per_image, *spread]]
            cells = (*words, str(row.batch_size), *macs, " ".join(f"{n:.1f}" for n in tokens))
            lines.setdefault((row.dataset, row.variant, row.runtime, row.batch_size), cells)
    if not lines:
        return ""
    header = ["dataset", "variant", "runtime", "batch", "promised", "executed", "min", "p10", "median", "p90", "max"]
    table = grid([*header, "tokens in each block"], list(lines.values()), [False] * 3 + [True] * 8 + [False])
    return (
        f"{table}\n\nMMACs for one image. *Promised*: if every dropped token cost nothing. *Executed*: with the "
        "padding of a batch. *min* to *max*: over the test images, without padding. Tokens are those that ran, "
        "mean over the test images."
    )


def counters(rows: list[Row]) -> str:
    """The dense model as several counters see it, against closed-form arithmetic."""
    dense = {row.dataset: row.macs_per_image for row in rows if row.variant == BASELINE and row.macs_per_image}
    lines = {}
    for row in rows:
        counted = row.macs_counters or {}
        closed = next((macs for name, macs in counted.items() if re.match("closed", name, re.IGNORECASE)), None)
        closed = closed or dense.get(row.dataset)
        for name, macs in counted.items():
            off = difference(macs, closed) if closed else ""
            lines[escape(row.dataset), escape(name.replace("_", " ")), f"{macs:,.0f}", off] = None
    if not lines:
        return ""
    header = ["dataset", "counter", "MACs for one image", "difference to closed form %"]
    return grid(header, list(lines), [False, False, True, True]) + f"\n\nThe dense model (`{BASELINE}`), one image."


def difference(value: float, reference: float) -> str:
    """In percent; a bare 0 means equal to the last one."""
    return "0" if value == reference else f"{100 * (value / reference - 1):+.2g}"


def timing(rows: list[Row]) -> str:
    """How many samples stand behind each latency, their spread, and the cold start."""
    cells = [
        [
            *(escape(x) for x in (row.variant, row.runtime, row.device)),
            *(str(x) for x in (row.threads, row.batch_size, len(row.latency_samples_s))),
            *(figure(x, 1e-3) for x in (row.latency_p10_s, row.latency_s, row.latency_p90_s)),
            *(figure(x, 1e-3) for x in (row.load_s, row.first_call_s)),
        ]
        for row in rows
        if row.latency_samples_s
    ]
    if not cells:
        return ""
    header = ["variant", "runtime", "device", "threads", "batch", "samples", "p10 ms", "median ms", "p90 ms"]
    table = grid([*header, "load ms", "first call ms"], cells, [False] * 3 + [True] * 8)
    return f"{table}\n\n*Load*: from the file on disk to ready, in a fresh process, imports excluded."


def variants(rows: list[Row]) -> str:
    lines = {}
    for row in rows:
        steps = [f"{m.get('name')}({', '.join(f'{k}={v}' for k, v in m.items() if k != 'name')})" for m in row.methods]
        lines[f"{bold(row.variant)}: {escape(', then '.join(steps)) or 'the dense model, no method'}"] = None
    return bullets(lines)


def flat(tree: dict[str, Any], above: str = "") -> dict[str, str]:
    """Nested tables as one, with dotted names."""
    found: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{above}{name}.")
        elif value is not None:
            found[f"{above}{name}"] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found


def environment(rows: list[Row]) -> str:
    """Each property once, with all values it had over the rows."""
    values: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in flat(row.environment).items():
            values.setdefault(name, {})[clean(value)] = None
    if rows:
        values["seed"] = dict.fromkeys(str(row.seed) for row in rows)
    cells = []
    for name, distinct in values.items():
        shown = list(distinct)
        if len(shown) > 4:
            shown = [shown[0], f"... {len(distinct)} values ...", shown[-1]]
        cells.append([escape(name), escape("; ".join(shown))])
    return grid(["property", "value"], cells, [False, False]) if cells else ""


def configuration(rows: list[Row]) -> str:
    """Each resolved configuration once, under the variants that used it."""
    users: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.config:
            users.setdefault(json.dumps(row.config, indent=2), {})[bold(row.variant)] = None
    return "\n\n".join(f"{', '.join(names)}:\n\n{fenced(text, 'json')}" for text, names in users.items())
