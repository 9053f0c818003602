"""The comparison table, defined once in `COLUMNS`, and as Markdown; `terminal`, `csv` and `latex` show the same."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from reports.row import BASELINE, Row
from reports.text import clean, escape, figure, grid, interval, measured, percent, plus_minus, ratio


@dataclass(frozen=True, kw_only=True)
class Column:
    """One quantity. Without a header it appears in CSV only."""

    key: str  # its name in CSV: base units, as in Row
    value: Callable[[Row], Any]
    header: str | None = None  # with the display unit
    show: Callable[[Row], str] = str  # for people: rounded, not escaped
    meaning: str = ""
    align: Literal["left", "right"] = "right"  # left: words, which may be foreign text
    narrow: Callable[[Row], str] | None = None  # what to show where room is scarce, if not the same
    rank: int | None = 0  # where room is scarce, the greatest go first; 0 always stays, None is never there
    needed: Callable[[list[Row]], bool] = bool  # whether a table of these rows shows it at all


def column(key: str, header: str | None = None, show: Callable[[Row], str] | None = None, **more: Any) -> Column:
    """A column that reads the attribute `key` of a row."""
    value = attrgetter(key)
    return Column(key=key, value=value, header=header, show=show or (lambda row: clean(value(row) or "")), **more)


def dense_name(row: Row) -> str:
    """The dense model that a row is compared with, as Markdown."""
    return f"`{BASELINE}`" if row.base == BASELINE else escape(row.base)


def no_clear_gain(row: Row) -> bool:
    """Whether the interval of the speed-up contains 1: the difference in time may be noise."""
    return _contains_one(row.speedup_low, row.speedup_high)


def _contains_one(low: float | None, high: float | None) -> bool:
    low, high = measured(low), measured(high)
    return low is not None and high is not None and low < high and low <= 1 <= high


def unsure(row: Row, text: str) -> str:
    return f"~{text}" if text and no_clear_gain(row) else text


def top1_text(row: Row) -> str:
    return interval(*(percent(x, row.n_images) for x in (row.top1, row.top1_low, row.top1_high)))


def speedup_text(row: Row) -> str:
    return times_text(row.speedup, row.speedup_low, row.speedup_high)


def overall_text(row: Row) -> str:
    return times_text(row.overall, row.overall_low, row.overall_high)


def times_text(middle: float | None, low: float | None, high: float | None) -> str:
    """A ratio with its interval; `~` in front where that contains 1."""
    if middle is not None and middle == low == high:  # measured against itself
        return ratio(middle)
    text = interval(ratio(middle), ratio(low), ratio(high))
    return f"~{text}" if text and _contains_one(low, high) else text


def latency_text(row: Row) -> str:
    """Median and half of the interquartile range, in ms."""
    iqr = row.latency_iqr_s if len(row.latency_samples_s) > 1 else None
    return plus_minus(row.latency_s, None if iqr is None else iqr / 2, 1e-3)


def rounds(row: Row) -> int | None:
    """How many turns its samples come from; None where rows do not say."""
    return len(row.latency_samples_s) // row.calls_per_round if row.calls_per_round else None


def _median(samples: list[float]) -> float | None:
    return statistics.median(samples) if samples else None


def realised_text(row: Row) -> str:
    share = measured(row.realised)
    if share is None or ratio(row.ceiling) == "1.00":  # a hair above 1 would blow any noise up to thousands of percent
        return ""
    return unsure(row, f"{100 * share:.0f}")


COLUMNS = [
    column("dataset"),
    column("device"),
    column("device_name"),
    column("threads"),
    column("variant", "variant", align="left", meaning="the baseline and the methods applied to it, in order"),
    column("runtime", "runtime", align="left", meaning="the engine that ran it"),
    column("executed", "executed", align="left", meaning="arithmetic that the kernels really did: `fp32`, `bf16`, "
           "`int8`, `int4`, `fp8`, or `int8-simulated` and the like (rounded, computed in float: no time is saved)"),
    column("batch_size", "batch", lambda r: str(r.batch_size), rank=None, meaning="images in one forward pass"),
    column("seed", "seed", lambda r: str(r.seed), rank=1, meaning="of training and of every random choice",
           needed=lambda rows: len({r.seed for r in rows}) > 1),
    column("n_images"),
    column("top1", "top-1 % [95 %]", top1_text,
           meaning="share of the test images classified correctly, with its 95 % Wilson interval"),
    column("top1_low"),
    column("top1_high"),
    column("agreement", "agreement %", lambda r: "" if r.dense else percent(r.agreement, r.n_images),
           rank=None, meaning="share of the test images given the same class as the dense model gives, right or "
           "wrong, in the same runtime"),
    column("mcnemar_p"),
    column("params", "params M", lambda r: figure(r.params, 1e6), rank=None,
           meaning="weights of the model in millions, counted before any packing"),
    column("macs_per_image", "MMACs/image", lambda r: figure(r.macs_per_image, 1e6), rank=4,
           meaning="millions of multiply-accumulates executed for one image, padding included, mean over the test "
           "images. A MAC is one multiply-add; FLOPs are twice that"),
    column("macs_promised"),
    column("integer_share"),
    column("file_bytes", "file MB", lambda r: figure(r.file_bytes, 1e6), rank=5,
           meaning="the file that is timed, in 10^6 bytes, external data included"),
    Column(key="n_latency_samples", value=lambda r: len(r.latency_samples_s) or None),
    column("calls_per_round"),
    column("latency_p10_s"),
    column("latency_s", "latency ms", latency_text, narrow=lambda r: figure(r.latency_s, 1e-3),
           meaning="median wall time of one forward pass of the whole batch, input already in memory, ± half of the "
           "interquartile range (the width of the middle half of all passes); *Timing* says over how many"),
    column("latency_iqr_s"),
    column("latency_p90_s", "p90 ms", lambda r: figure(r.latency_p90_s, 1e-3), rank=None,
           meaning="nine of ten forward passes were at most this long"),
    column("latency_p99_s"),
    column("images_per_s", "images/s", lambda r: figure(r.images_per_s), rank=None,
           meaning="batch divided by the median latency"),
    Column(key="easy_latency_s", value=lambda r: _median(r.easy_samples_s)),
    Column(key="hard_latency_s", value=lambda r: _median(r.hard_samples_s)),
    column("load_s"),
    column("first_call_s"),
    column("peak_memory_bytes", "peak MB", lambda r: figure(r.peak_memory_bytes, 1e6), rank=None,
           meaning="most memory held, in 10^6 bytes: on a CPU the resident set of the whole process, on CUDA what was "
           "allocated on the device"),
    column("speedup", "speed-up [95 %]", speedup_text,
           meaning=f"latency of the dense model (`{BASELINE}`, or the name of another architecture) divided by latency "
           "of this variant, with a 95 % bootstrap interval: same runtime, device, batch and threads, measured "
           "interleaved in the same session. `~`: the interval contains 1, so there may be no difference"),
    column("speedup_low"),
    column("speedup_high"),
    column("overall", "overall [95 %]", overall_text, rank=2,
           narrow=lambda r: ("~" if _contains_one(r.overall_low, r.overall_high) else "") + ratio(r.overall),
           meaning="the same against the dense model in fp32 in torch, whatever the runtime of this row: same device, "
           "batch and threads, measured interleaved in the same session",
           needed=lambda rows: any(measured(r.overall) is not None for r in rows)),
    column("overall_low"),
    column("overall_high"),
    column("ceiling", "ceiling", lambda r: ratio(r.ceiling), rank=None,
           meaning="MACs of the dense model divided by MACs of this variant: the most that removing work can give"),
    column("realised", "realised %", realised_text, rank=3,
           meaning="(speed-up - 1) / (ceiling - 1): 100 is all of the possible saving, 0 none, negative slower than "
           "the baseline, above 100 helped by more than fewer MACs (int8, say); empty where the ceiling is 1"),
    Column(key="warnings", value=lambda r: "; ".join(r.warnings) or None),
    column("failed"),
    column("artifact"),
    column("command"),
    column("key"),
    column("schema"),
]  # fmt: skip
SHOWN = [c for c in COLUMNS if c.header is not None]


def groups(rows: list[Row]) -> list[list[Row]]:
    """Rows that may share a table, in order of first appearance: same dataset, device, threads and batch size."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in sorted(rows, key=nowhere):
        key = (row.dataset, row.device, row.device_name, row.threads, row.batch_size)
        if nowhere(row):
            key = next((other for other in found if other[0] == row.dataset and other[-1] == row.batch_size), key)
        found.setdefault(key, []).append(row)
    return list(found.values())


def nowhere(row: Row) -> bool:
    """Whether it failed before it reached any device; it then joins the first table of its dataset and batch size."""
    return row.failed is not None and not row.device_name


def conditions(row: Row, dataset: bool = True, device_name: bool = True) -> str:
    """What the rows of a group have in common, as plain text."""
    parts = [row.dataset] if dataset else []
    parts += [
        f"batch {row.batch_size}",
        row.device + (f" ({row.device_name})" if device_name and row.device_name else ""),
    ]
    return clean(", ".join([*parts, f"{row.threads} thread{'' if row.threads == 1 else 's'}"]))


def footnotes(rows: list[Row]) -> tuple[list[str], list[str]]:
    """Failures and warnings of one table.

    Returns:
        For each row what stands behind its name, as ` [1]`; and the text of each note, in order, not escaped.
    """
    notes: dict[str, int] = {}
    marks = []
    for row in rows:
        own = [f"failed: {clean(row.failed) or 'no reason was recorded'}"] if row.failed is not None else []
        own += [clean(warning) for warning in row.warnings]
        numbers = [notes.setdefault(note, len(notes) + 1) for note in dict.fromkeys(own)]
        marks.append("".join([" (failed)" * (row.failed is not None), *(f" [{n}]" for n in numbers)]))
    return marks, list(notes)


def markdown_table(rows: list[Row]) -> str:
    """One heading, table and list of notes for each dataset, device, thread count and batch size."""
    parts = []
    shown = [c for c in SHOWN if c.needed(rows)]
    for group in groups(rows):
        marks, notes = footnotes(group)
        cells = []
        for row, mark in zip(group, marks, strict=True):
            line = [escape(c.show(row)) if c.align == "left" else c.show(row) for c in shown]
            line[[c.key for c in shown].index("variant")] += mark
            cells.append(line)
        parts.append(f"### {escape(conditions(group[0]))}")
        parts.append(grid([c.header or "" for c in shown], cells, [c.align == "right" for c in shown]))
        if notes:
            parts.append("\n".join(f"- [{n}] {escape(note)}" for n, note in enumerate(notes, 1)))
    return "\n\n".join(parts)
