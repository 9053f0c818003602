"""What a measurement is: one `Row` a variant, runtime, device and batch size.

Base units in the names: seconds, bytes, MACs (multiply-accumulates; FLOPs are twice that), fractions in [0, 1].
`None` means not measured, never 0. Derived figures are properties; rounding happens where tables are made.
"""

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from reports.text import drop_infinite

BASELINE = "vit"  # the dense model of a Vision Transformer's rows
LEAST_CEILING = 1.005  # a hair above 1 would blow any noise up to thousands of percent
SCHEMA = 3  # raised when older versions of this program would misread new rows; older rows stay readable


class RowError(ValueError):
    """A file of rows that cannot be read; one sentence that names the file and line."""


@dataclass(frozen=True, kw_only=True)
class Row:
    variant: str
    base: str = BASELINE  # the dense model that this one came from
    recipe: str | None = None  # settings that tell apart rows of one variant and runtime: "static + bf16"
    methods: list[dict[str, Any]]  # in order, each {"name": ..., hyper-parameters}
    runtime: str  # torch, onnxruntime
    device: str  # cpu, cuda
    device_name: str
    dtype: str | None = None  # in which the variant's matrix products are meant to run
    fallback_dtype: str | None = None  # of what is not quantized
    executed: str | None = None  # fp32, bf16, int8, int4, fp8, or int8-simulated and the like: what kernels did
    batch_size: int
    batch_shape: str | None = None  # fixed: the engine compiled its graph for this batch size; dynamic: for any
    threads: int
    dataset: str
    seed: int

    n_images: int | None = None  # test images scored
    top1: float | None = None
    top1_low: float | None = None  # 95 % Wilson interval
    top1_high: float | None = None
    # Against the dense model on the same images, in the same runtime where it ran there:
    top1_change: float | None = None  # top1 minus that of the dense model
    top1_change_low: float | None = None  # 95 % interval, of the same images
    top1_change_high: float | None = None
    mcnemar_p: float | None = None  # of `top1_change`
    agreement: float | None = None  # share of test images given the same class
    sqnr_db: float | None = None  # of the logits, against the dense model in fp32
    classes: list[str] | None = None  # names, in the order of the model's outputs
    class_recall: list[float | None] | None = None  # share of each class's test images got right; None: it has none
    confusion: list[list[int]] | None = None  # test images by true class (outer) and predicted class; up to 100 classes

    params: int | None = None  # logical weights, counted before packing
    file_bytes: int | None = None  # of the artifact that is timed
    macs_per_image: float | None = None  # executed, padding included, mean over the test images
    macs_promised: float | None = None  # if every dropped token cost nothing
    macs_quantiles: list[float] | None = None  # min, p10, median, p90, max over the test images, without padding
    tokens_per_block: list[float] | None = None  # that ran, mean over the test images
    macs_counters: dict[str, float] | None = None  # a model of fixed shapes as several counters see it
    integer_share: float | None = None  # of the MACs, in integer kernels; read from the runtime's own graph

    latency_samples_s: list[float] = field(default_factory=list)  # one forward pass of batch_size images each
    calls_per_round: int | None = None  # samples that were taken in a row, before the others had their turn
    easy_samples_s: list[float] = field(default_factory=list)  # batch 1, the tenth of the images with the fewest MACs
    hard_samples_s: list[float] = field(default_factory=list)  # ... with the most; both empty where all cost the same
    load_s: float | None = None  # artifact on disk -> ready, in a fresh process, imports excluded
    first_call_s: float | None = None
    peak_memory_bytes: int | None = None  # cpu: resident set of that process; cuda: allocated on the device
    speedup: float | None = None  # against the dense baseline: same session, runtime, device, batch size and threads
    speedup_low: float | None = None  # 95 % bootstrap interval
    speedup_high: float | None = None
    overall: float | None = None  # speed-up against the dense fp32 baseline in torch, whatever the runtime of this row
    overall_low: float | None = None
    overall_high: float | None = None
    standing: float | None = None  # latency divided by that of a fixed amount of arithmetic that every run times, too
    standing_low: float | None = None  # 95 % interval over the rounds of this run
    standing_high: float | None = None
    ceiling: float | None = None  # MACs of the dense baseline / MACs of this variant

    warnings: list[str] = field(default_factory=list)
    failed: str | None = None  # why there are no figures
    eliminated: str | None = None  # why it was dropped early; the figures are those of the images seen until then
    chosen: str | None = None  # why the command kept this file
    artifact: str | None = None  # file name, relative to the run directory
    # In one row of each variant only:
    training: list[dict[str, float]] | None = None  # one record an epoch: loss, its terms, train_top1, ...
    examples: list[dict[str, Any]] | None = None  # test images and what the model did with them (measure/examples.py)
    config: dict[str, Any] = field(default_factory=dict)  # resolved
    environment: dict[str, Any] = field(default_factory=dict)
    verb: str | None = None  # the command that made the row (bench, quantize, ...), or the name of a benchmark
    command: str | None = None
    key: str | None = None  # hash of everything the row depends on
    schema: int = SCHEMA

    @property
    def label(self) -> str:
        """The variant, with its recipe: `int8 (static + bf16)`."""
        return f"{self.variant} ({self.recipe})" if self.recipe else self.variant

    @property
    def dense(self) -> bool:
        """Whether it is the model that others are compared with."""
        return self.variant == self.base

    @property
    def completed(self) -> bool:
        """Whether it was measured to the end."""
        return self.failed is None and self.eliminated is None

    @property
    def macro_recall(self) -> float | None:
        """Mean over the classes of the share got right, however many test images each has; also: balanced accuracy."""
        known = [share for share in self.class_recall or [] if share is not None]
        return sum(known) / len(known) if known else None

    @property
    def latency_s(self) -> float | None:
        """Median wall time of one forward pass of `batch_size` images."""
        return statistics.median(self.latency_samples_s) if self.latency_samples_s else None

    @property
    def latency_p10_s(self) -> float | None:
        return quantile(self.latency_samples_s, 0.1)

    @property
    def latency_p90_s(self) -> float | None:
        return quantile(self.latency_samples_s, 0.9)

    @property
    def latency_iqr_s(self) -> float | None:
        """Width of the middle half of the samples."""
        low, high = quantile(self.latency_samples_s, 0.25), quantile(self.latency_samples_s, 0.75)
        return None if low is None or high is None else high - low

    @property
    def latency_p99_s(self) -> float | None:
        """None below 1,000 samples: it would be little more than their largest."""
        return quantile(self.latency_samples_s, 0.99) if len(self.latency_samples_s) >= 1000 else None

    @property
    def images_per_s(self) -> float | None:
        return self.batch_size / self.latency_s if self.latency_s else None

    @property
    def realised(self) -> float | None:
        """Share of the possible saving that became time: (speedup - 1) / (ceiling - 1).

        None where no MACs were removed, or the dtype changed as well: those products have another ceiling.
        """
        if self.speedup is None or self.ceiling is None or self.dtype != "fp32" or self.ceiling < LEAST_CEILING:
            return None
        return (self.speedup - 1) / (self.ceiling - 1)

    def to_json(self) -> str:
        """One line, without derived figures."""
        return json.dumps(drop_infinite(asdict(self)), allow_nan=False)


def quantile(samples: list[float], q: float) -> float | None:
    """Linear interpolation between order statistics; None without samples."""
    if not samples:
        return None
    ordered = sorted(samples)
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def latest(rows: Iterable[Row]) -> list[Row]:
    """The newest row for each thing measured, in order of first appearance; a failure counts until the next success."""
    newest: dict[tuple[object, ...], Row] = {}
    for row in rows:
        if not row.failed:
            for place in [place for place, old in newest.items() if _is_repaired(old, row)]:
                del newest[place]
        where = (row.device, row.device_name, row.threads, row.batch_size)
        newest[row.variant, row.recipe, row.runtime, *where, row.dataset, row.seed] = row
    return list(newest.values())


def _is_repaired(old: Row, new: Row) -> bool:
    same = (old.variant, old.dataset, old.seed) == (new.variant, new.dataset, new.seed)
    return old.failed is not None and same and old.recipe in (None, new.recipe)
