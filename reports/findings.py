"""What the figures say, in sentences: who is fastest, who saves nothing, and what the plain alternatives reach."""

from reports.accuracy import verdict
from reports.row import BASELINE, Row
from reports.table import conditions, dense_name, groups, no_clear_gain, overall_text, speedup_text
from reports.text import bold, bullets, escape, figure, measured, percent

COMPILED = "torch.compile"
# What anybody can have without compressing anything: (variant of a ViT, runtime or None for any) and what it is.
PLAIN = {
    ("bf16", None): "the dense model in bfloat16",
    (BASELINE, COMPILED): "the dense model, compiled",
    ("narrow", None): "a plain narrower ViT, trained the same way",
}
NO_DIFFERENCE = "no clear difference"


def findings(rows: list[Row]) -> str:
    """A paragraph for each table."""
    if not rows:
        return "There are no measurements."
    lines = []
    for group in groups(rows):
        text = finding(group)
        models = dict.fromkeys(row.base for row in group)
        parts = [[row for row in group if row.base == base] for base in models]
        against = [sentence for part in parts for kind in PLAIN if (sentence := plain(part, kind))]
        if text:
            lines.append("\n".join([text, *(f"  - {sentence}" for sentence in against)]))
    failed = sum(row.failed is not None for row in rows)
    if failed:
        lines.append(f"{failed} of {len(rows)} measurements failed; the notes under the tables say why.")
    text, dense = bullets(lines), " or ".join({dense_name(row): None for row in rows})
    if any(row.speedup is not None for row in rows):
        text += (
            f"\n\nA speed-up is against {dense} in the same runtime, on the same device, with the same batch and "
            "threads, measured interleaved in the same session; brackets hold 95 % intervals."
        )
    if any(row.overall is not None for row in rows):
        text += f" *Overall* is against {dense} in fp32 in torch."
    if any("  - " in line for line in lines):
        text += (
            " Two rows are called different, in time or accuracy, where their intervals do not overlap; where nothing "
            "is said about accuracy, there is no clear difference."
        )
    return text


def finding(group: list[Row]) -> str:
    """The fastest row of one table, and who saves nothing."""
    timed = [row for row in group if measured(row.latency_s)]
    if not timed:
        return ""
    best = fastest(timed)
    parts = [f"{figure(best.latency_s, 1e-3)} ms ({figure(best.images_per_s)} images/s)"]
    if best.top1 is not None:
        known = not best.dense and best.mcnemar_p is not None
        parts.append(f"top-1 {percent(best.top1, best.n_images)} %" + (f", {verdict(best)}" if known else ""))
    if best.dense:
        parts.append("that is the dense model itself")
    elif best.speedup is not None and saves(best):
        parts.append(f"{speedup_text(best)} times as fast as {dense_name(best)} in that runtime")
    if best.overall is not None and overall_text(best) != speedup_text(best):
        parts.append(f"overall {overall_text(best)}")
    text = f"{escape(conditions(best, device_name=False))}: the smallest latency is that of "
    text += f"{bold(best.variant)} in {escape(best.runtime)}, "
    text += "; ".join(parts) + "."
    useless = [row for row in timed if not row.dense and row.speedup is not None and not saves(row)]
    if useless:
        text += f" No saving here: {', '.join(map(shortfall, useless))}."
    return text


def fastest(timed: list[Row]) -> Row:
    return min(timed, key=lambda row: row.latency_s or 0)


def saves(row: Row) -> bool:
    """Whether it is faster than the baseline beyond doubt (where an interval is known)."""
    return row.speedup is not None and row.speedup > 1 and not no_clear_gain(row)


def shortfall(row: Row) -> str:
    how = NO_DIFFERENCE if no_clear_gain(row) else "not faster"
    return f"{bold(row.variant)} in {escape(row.runtime)} ({speedup_text(row)}, {how})"


def plain(group: list[Row], kind: tuple[str, str | None]) -> str:
    """How the compressed variants of one model in one table, each in its fastest runtime, compare with a plain
    alternative."""
    timed = [row for row in group if measured(row.latency_s)]
    base = group[0].base
    front = "" if base == BASELINE else f"{base}_"
    names = {name: base if name == BASELINE else f"{front}{name}" for name, _ in PLAIN}
    variant, runtime = kind
    alternatives = [row for row in timed if row.variant == names[variant] and runtime in (None, row.runtime)]
    compressed = [row for row in timed if row.variant not in names.values()]
    if not alternatives or not compressed:
        return ""
    best = fastest(alternatives)
    verdicts: dict[str, list[str]] = {"faster": [], NO_DIFFERENCE: [], "slower": [], "": []}
    for name in dict.fromkeys(row.variant for row in compressed):
        rival = fastest([row for row in compressed if row.variant == name])
        right = compared((rival.top1_low, rival.top1_high), (best.top1_low, best.top1_high), "more", "less")
        said = f", {right} accurate" if right in ("more", "less") else ""
        entry = f"{bold(name)} in {escape(rival.runtime)} ({reached(rival)}{said})"
        verdicts[compared(*_speeds(rival, best), "faster", "slower")].append(entry)
    starts = {"faster": "faster", NO_DIFFERENCE: f"{NO_DIFFERENCE} in time", "slower": "slower", "": "beside it"}
    work = f", {figure(best.macs_per_image, 1e6)} MMACs" if best.macs_per_image else ""
    text = f"Against {PLAIN[kind]} ({bold(best.variant)} in {escape(best.runtime)}, {reached(best)}{work}): "
    return text + "; ".join(f"{starts[how]} {', '.join(names)}" for how, names in verdicts.items() if names) + "."


def reached(row: Row) -> str:
    """`72.1 % at 1.70 ms`, or what is known of it."""
    accuracy = [] if row.top1 is None else [f"{percent(row.top1, row.n_images)} %"]
    return " at ".join([*accuracy, f"{figure(row.latency_s, 1e-3)} ms"])


Interval = tuple[float | None, float | None]


def _speeds(row: Row, other: Row) -> tuple[Interval, Interval]:
    """Speed-ups over one and the same reference, as intervals; unknown ends where there is none."""
    if row.overall is not None and other.overall is not None:
        return (row.overall_low, row.overall_high), (other.overall_low, other.overall_high)
    if row.runtime == other.runtime:
        return (row.speedup_low, row.speedup_high), (other.speedup_low, other.speedup_high)
    return (None, None), (None, None)


def compared(ours: Interval, theirs: Interval, above: str, below: str) -> str:
    """`above` or `below` where the intervals are apart; empty where an end is unknown."""
    (low, high), (their_low, their_high) = (tuple(map(measured, each)) for each in (ours, theirs))
    if low is None or high is None or their_low is None or their_high is None:
        return ""
    return above if low > their_high else below if high < their_low else NO_DIFFERENCE
