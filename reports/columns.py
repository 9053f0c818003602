"""The columns of the comparison, defined once: in words, for a terminal, a page, a paper, and unrounded for CSV."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from reports.results import Result
from reports.row import Row, quantile
from reports.significance import ALPHA, NO_DIFFERENCE, Ratio, judge_speedup
from reports.text import clean, figure, interval, measured, percent, plus_minus, points, ratio


@dataclass(frozen=True, kw_only=True)
class Column:
    """One quantity. Without a header it appears in CSV only."""

    key: str  # its name in CSV: base units, as in Row
    value: Callable[[Result], Any]
    header: str | None = None  # with the display unit
    show: Callable[[Result], str] = str  # for people: rounded, not escaped
    meaning: str = ""
    align: Literal["left", "right"] = "right"  # left: words, which may be foreign text
    narrow: Callable[[Result], str] | None = None  # what to show where room is scarce, if not the same
    rank: int | None = 0  # on a terminal, the greatest go into a table below; 0 decides, None is never there
    needed: Callable[[list[Row]], bool] = bool  # whether a table of these rows shows it at all


def column(key: str, header: str | None = None, show: Callable[[Row], str] | None = None, **more: Any) -> Column:
    """A column that reads the attribute `key` of a row, and shows it as text unless told how."""

    def text(result: Result) -> str:
        return show(result.row) if show else clean(getattr(result.row, key) or "")

    if narrow := more.pop("narrow", None):
        more["narrow"] = lambda result: narrow(result.row)
    return Column(key=key, value=lambda result: getattr(result.row, key), header=header, show=text, **more)


def top1_text(row: Row) -> str:
    return interval(*(percent(x, row.n_images) for x in (row.top1, row.top1_low, row.top1_high)))


def change_text(result: Result) -> str:
    """`-2.1 *`: in points; a star where it is statistically significant."""
    text = points(result.top1_change, result.row.n_images)
    return f"{text} *" if text and result.accuracy in ("better", "worse") else text


def speedup_text(row: Row) -> str:
    return times_text((row.speedup, row.speedup_low, row.speedup_high))


def overall_text(row: Row) -> str:
    return times_text((row.overall, row.overall_low, row.overall_high))


def times_text(times: Ratio) -> str:
    """A ratio with its interval; `~` in front where that contains 1."""
    middle, low, high = times
    if middle is not None and middle == low == high:  # measured against itself
        return ratio(middle)
    return _sign(times) + interval(ratio(middle), ratio(low), ratio(high))


def _sign(times: Ratio) -> str:
    return "~" if judge_speedup(times) == NO_DIFFERENCE else ""


def latency_text(row: Row) -> str:
    """Median and half of the interquartile range, in ms."""
    iqr = row.latency_iqr_s if len(row.latency_samples_s) > 1 else None
    return plus_minus(row.latency_s, None if iqr is None else iqr / 2, 1e-3)


def realised_text(row: Row) -> str:
    """`1.14x of 1.42x possible`; empty where no MACs were removed in the same dtype."""
    if measured(row.realised) is None:
        return ""
    sign = _sign((row.speedup, row.speedup_low, row.speedup_high))
    return f"{sign}{ratio(row.speedup)}x of {ratio(row.ceiling)}x possible"


def file_text(result: Result) -> str:
    """MB, and the share of the dense model's file in fp32 unless it is that."""
    text, share = figure(result.row.file_bytes, 1e6), result.file_ratio
    return text if share is None or result.row is result.reference else f"{text} ({ratio(share)}x)"


COLUMNS = [
    column("dataset"),
    column("device"),
    column("device_name"),
    column("threads"),
    Column(key="variant", value=lambda r: r.row.label, header="variant", show=lambda r: clean(r.row.label),
           align="left", meaning="the dense model and the methods applied to it, in order; in brackets the settings "
           "that tell apart rows of one variant"),
    column("runtime", "runtime", align="left", meaning="the engine that ran it"),
    column("executed", "executed", rank=3, align="left", meaning="arithmetic that the kernels really did: `fp32`, "
           "`bf16`, `int8`, `int4`, `fp8`, or `int8-simulated` and the like (rounded, computed in float: no time is "
           "saved)"),
    column("dtype"),
    column("fallback_dtype"),
    column("batch_size", "batch", lambda r: str(r.batch_size), rank=None, meaning="images in one forward pass"),
    column("batch_shape", "batch shape", align="left", rank=None, meaning="`fixed`: the engine compiled its graph for "
           "exactly this batch size; `dynamic`: for any", needed=lambda rows: any(r.batch_shape for r in rows)),
    column("seed", "seed", lambda r: str(r.seed), rank=0, meaning="of training and of every random choice",
           needed=lambda rows: len({r.seed for r in rows}) > 1),
    column("overall", "vs PyTorch fp32 [95 %]", overall_text,
           meaning="speed-up: latency of the dense model in fp32 in torch divided by the latency of this row, with a "
           "95 % bootstrap interval: same device, batch and threads, measured interleaved in the same session. `~`: "
           "not statistically significant, the interval contains 1",
           needed=lambda rows: any(measured(r.overall) is not None for r in rows)),
    column("overall_low"),
    column("overall_high"),
    column("speedup", "vs dense, same engine [95 %]", speedup_text, rank=2,
           meaning="the same against the dense model in the same runtime: what compression alone gives there"),
    column("speedup_low"),
    column("speedup_high"),
    column("standing"),
    column("standing_low"),
    column("standing_high"),
    Column(key="n_latency_samples", value=lambda r: len(r.row.latency_samples_s) or None),
    column("calls_per_round"),
    column("latency_p10_s"),
    column("latency_s", "latency ms", latency_text, narrow=lambda r: figure(r.latency_s, 1e-3),
           meaning="median wall time of one forward pass of the whole batch, input already in memory, ± half of the "
           "interquartile range (the width of the middle half of all passes); *Timing* says over how many"),
    column("latency_iqr_s"),
    column("latency_p90_s", "p90 ms", lambda r: figure(r.latency_p90_s, 1e-3), rank=None,
           meaning="nine of ten forward passes were at most this long"),
    column("latency_p99_s"),
    column("images_per_s", "images/s", lambda r: figure(r.images_per_s), rank=5,
           meaning="batch divided by the median latency"),
    Column(key="easy_latency_s", value=lambda r: quantile(r.row.easy_samples_s, 0.5)),
    Column(key="hard_latency_s", value=lambda r: quantile(r.row.hard_samples_s, 0.5)),
    column("load_s"),
    column("first_call_s"),
    column("n_images"),
    column("top1", "top-1 % [95 %]", top1_text, narrow=lambda r: percent(r.top1, r.n_images),
           meaning="share of the test images classified correctly, with its 95 % Wilson interval"),
    column("top1_low"),
    column("top1_high"),
    Column(key="top1_change", value=lambda r: r.top1_change, header="top-1 change", show=change_text,
           meaning="points of top-1 against the dense model, on the same images and in the same runtime where it ran "
           f"there. A star: statistically significant (McNemar's test, p < {ALPHA})"),
    column("mcnemar_p"),
    column("agreement", "agreement %", lambda r: "" if r.dense else percent(r.agreement, r.n_images),
           rank=None, meaning="share of the test images given the same class as the dense model gives, right or "
           "wrong, in the same runtime"),
    column("sqnr_db", "SQNR dB", lambda r: figure(r.sqnr_db), rank=None, meaning="signal over error of the logits, "
           "against the dense model in fp32", needed=lambda rows: any(r.sqnr_db is not None for r in rows)),
    column("params", "params M", lambda r: figure(r.params, 1e6), rank=None,
           meaning="weights of the model in millions, counted before any packing"),
    column("macs_per_image", "MMACs/image", lambda r: figure(r.macs_per_image, 1e6), rank=7,
           meaning="millions of multiply-accumulates executed for one image, padding included, mean over the test "
           "images. A MAC is one multiply-add; FLOPs are twice that"),
    column("macs_promised"),
    column("integer_share"),
    column("ceiling"),
    column("realised", "realised", realised_text, rank=6,
           narrow=lambda r: realised_text(r).removesuffix(" possible"),
           meaning="speed-up in the same engine, of the most that removing MACs can give (MACs of the dense model / "
           "MACs of this variant); only where MACs were removed and the dtype stayed fp32",
           needed=lambda rows: any(map(realised_text, rows))),
    Column(key="file_bytes", value=lambda r: r.row.file_bytes, header="file MB", show=file_text,
           meaning="the file that is timed, in 10^6 bytes, external data included; in brackets against the file of "
           "the dense model in torch"),
    Column(key="file_ratio", value=lambda r: r.file_ratio),
    column("peak_memory_bytes", "peak MB", lambda r: figure(r.peak_memory_bytes, 1e6), rank=8,
           meaning="most memory held, in 10^6 bytes: on a CPU the resident set of the whole process, on CUDA what was "
           "allocated on the device"),
    Column(key="warnings", value=lambda r: "; ".join(r.row.warnings) or None),
    column("eliminated"),
    column("chosen"),
    column("failed"),
    column("artifact"),
    column("verb"),
    column("command"),
    column("key"),
    column("schema"),
]  # fmt: skip
SHOWN = [c for c in COLUMNS if c.header is not None]
