"""What the figures say, in sentences: who is fastest at no loss, who saves nothing, what plain models reach."""

from reports.columns import overall_text, speedup_text
from reports.results import Group, Result, group_rows
from reports.row import BASELINE, Row
from reports.significance import (
    NO_DIFFERENCE,
    RULE,
    Accuracy,
    Ratio,
    Speed,
    compare_proportions,
    divide,
    judge_accuracy,
    judge_speedup,
)
from reports.table import name_dense
from reports.text import bold, bullets, clean, escape, figure, measured, p_value, percent, points

COMPILED = "torch.compile"
# What anybody can have without compressing anything: (variant of a ViT, runtime or None for any) and what it is.
PLAIN = {
    ("bf16", None): "the dense model in bfloat16",
    (BASELINE, COMPILED): "the dense model, compiled",
    ("narrow", None): "a plain narrower ViT, trained the same way",
}


def findings(rows: list[Row]) -> str:
    """A paragraph for each table and dense model."""
    if not rows:
        return "There are no measurements."
    lines = []
    for group in group_rows(rows):
        for base in group.bases:
            if text := describe_best(group, base):
                against = [sentence for kind in PLAIN if (sentence := compare_plain(group, base, kind))]
                lines.append("\n".join([text, *(f"  - {sentence}" for sentence in against)]))
    failed = sum(row.failed is not None for row in rows)
    if failed:
        lines.append(f"{failed} of {len(rows)} measurements failed; the sentences under the tables say why.")
    text, dense = bullets(lines), " or ".join({name_dense(row): None for row in rows})
    if any(row.speedup is not None or row.overall is not None for row in rows):
        text += (
            f"\n\nA speed-up is against {dense}, on the same device, with the same batch and threads, measured "
            f"interleaved in the same session; brackets hold 95 % intervals. {RULE}"
        )
    return text


def describe_best(group: Group, base: str) -> str:
    """The fastest row without a loss, what is faster at a loss, what was kept, and who saves nothing."""
    results = [r for r in group.results if r.row.base == base and r.row.completed and measured(r.row.latency_s)]
    if not results:
        return ""
    best = next((winner for winner in group.winners if winner.row.base == base), None)
    title = escape(group.title.replace(f" ({clean(group.rows[0].device_name)})", ""))
    if best is None:
        fastest = choose_fastest(results)
        text = f"{title}: no row is without a statistically significant loss; the fastest is {_describe(fastest)}."
        others = []
    else:
        loss = " without a statistically significant loss of top-1" if best.row.top1 is not None else ""
        text = f"{title}: the fastest{loss} is {_describe(best)}."
        others = [r for r in results if r.accuracy == "worse" and (r.row.latency_s or 0) < (best.row.latency_s or 0)]
    if others:
        more = f" ({len(others) - 1} more such in the table)" if len(others) > 1 else ""
        text += f" Faster, but less accurate: {_describe(choose_fastest(others))}{more}."
    for result in group.results:
        if result.row.chosen is not None and result.row.base == base:
            text += f" Chosen: {_name(result)}, {escape(result.row.chosen)}."
    useless = [r for r in results if r.speed in ("slower", NO_DIFFERENCE)]
    if useless:
        text += f" Not faster in their own engine: {', '.join(map(_shortfall, useless))}."
    if eliminated := sum(r.row.eliminated is not None and r.row.base == base for r in group.results):
        text += f" {eliminated} eliminated before the end; the notes under the table say why."
    return text


def choose_fastest(results: list[Result]) -> Result:
    return min(results, key=lambda result: result.row.latency_s or 0)


def describe_accuracy(result: Result) -> str:
    """`top-1 72.1 %, 2.0 points below vit at p < 0.001`; empty where not measured."""
    row, change = result.row, result.top1_change
    if row.top1 is None:
        return ""
    text = f"top-1 {percent(row.top1, row.n_images)} %"
    if change is None or result.p is None or not result.accuracy:
        return text
    if result.accuracy == NO_DIFFERENCE:
        return f"{text}, {NO_DIFFERENCE} to {name_dense(row)} ({p_value(result.p)})"
    side = "below" if result.accuracy == "worse" else "above"
    return (
        f"{text}, {points(abs(change), row.n_images).strip('+')} points {side} {name_dense(row)} at {p_value(result.p)}"
    )


def _describe(result: Result) -> str:
    """Name, times and accuracy of one row."""
    row = result.row
    parts = [f"{figure(row.latency_s, 1e-3)} ms ({figure(row.images_per_s)} images/s)"]
    if row.overall is not None and result.reference is not row:
        parts.append(f"{overall_text(row)} times as fast as {name_dense(row)} in PyTorch fp32")
    if row.dense:
        parts.append("that is the dense model itself")
    elif row.speedup is not None and speedup_text(row) != overall_text(row):
        parts.append(f"{speedup_text(row)} times as fast as {name_dense(row)} in the same engine")
    return ": ".join([_name(result), "; ".join(filter(None, [*parts, describe_accuracy(result)]))])


def _name(result: Result) -> str:
    return f"{bold(result.row.label)} in {escape(result.row.runtime)}"


def _shortfall(result: Result) -> str:
    how = NO_DIFFERENCE if result.speed == NO_DIFFERENCE else "slower"
    return f"{_name(result)} ({speedup_text(result.row)}, {how})"


def compare_plain(group: Group, base: str, kind: tuple[str, str | None]) -> str:
    """How the compressed variants of one model in one table, each in its fastest runtime, compare with a plain
    alternative."""
    timed = [r for r in group.results if r.row.base == base and r.row.completed and measured(r.row.latency_s)]
    front = "" if base == BASELINE else f"{base}_"
    names = {name: base if name == BASELINE else f"{front}{name}" for name, _ in PLAIN}
    variant, runtime = kind
    alternatives = [r for r in timed if r.row.variant == names[variant] and runtime in (None, r.row.runtime)]
    compressed = [r for r in timed if r.row.variant not in names.values()]
    if not alternatives or not compressed:
        return ""
    best = choose_fastest(alternatives)
    verdicts: dict[Speed, list[str]] = {"faster": [], NO_DIFFERENCE: [], "slower": [], "": []}
    for label in dict.fromkeys(r.row.label for r in compressed):
        rival = choose_fastest([r for r in compressed if r.row.label == label])
        right = {"better": "more accurate than it", "worse": "less accurate than it"}.get(compare_accuracy(rival, best))
        said = ", ".join(filter(None, (reached(rival), right)))
        verdicts[judge_speedup(compare_speed(rival, best))].append(f"{_name(rival)} ({said})")
    starts = {"faster": "faster", NO_DIFFERENCE: f"{NO_DIFFERENCE} in time", "slower": "slower", "": "beside it"}
    work = f", {figure(best.row.macs_per_image, 1e6)} MMACs" if best.row.macs_per_image else ""
    text = f"Against {PLAIN[kind]} ({_name(best)}, {reached(best)}{work}): "
    return text + "; ".join(f"{starts[how]} {', '.join(names)}" for how, names in verdicts.items() if names) + "."


def reached(result: Result) -> str:
    """`1.70 ms, top-1 72.1 %`, or what is known of it; and any significant difference to the dense model."""
    latency = f"{figure(result.row.latency_s, 1e-3)} ms"
    accuracy = describe_accuracy(result)
    if result.accuracy not in ("better", "worse"):
        accuracy = accuracy.partition(",")[0]
    return ", ".join(filter(None, [latency, accuracy]))


def compare_speed(result: Result, other: Result) -> Ratio:
    """How many times as fast the first is, from speed-ups over one and the same reference; unknown without one."""
    row, rival = result.row, other.row
    if row.overall is not None and rival.overall is not None:
        ours, theirs = ((r.overall, r.overall_low, r.overall_high) for r in (row, rival))
    elif row.runtime == rival.runtime:
        ours, theirs = ((r.speedup, r.speedup_low, r.speedup_high) for r in (row, rival))
    else:
        return None, None, None
    return divide(ours, theirs)


def compare_accuracy(result: Result, other: Result) -> Accuracy:
    """Of two rows that were not compared image by image."""
    row, rival = result.row, other.row
    p = compare_proportions(row.top1, row.n_images, rival.top1, rival.n_images)
    return judge_accuracy((row.top1 or 0) - (rival.top1 or 0), p)
