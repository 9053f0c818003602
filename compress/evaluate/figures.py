"""What is known of an artifact -> one `Row`.

A figure of a row comes from one of the functions in `FIGURES`. A new measured column is a field of `Row`, a column in
`reports/columns.py`, and a function here that gives the field (docs/architecture.md).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from compress import runtimes
from compress.evaluate.candidate import Candidate
from compress.evaluate.details import describe_once
from compress.evaluate.images import Images
from compress.evaluate.measurement import Measurement, describe_failure, has_fixed_batch
from compress.evaluate.options import Options
from compress.measure import cost, environment, latency, statistics
from compress.measure.latency import Timing
from compress.quantization.sensitivity import sqnr_db
from reports import Row

if TYPE_CHECKING:
    from compress.evaluate.evaluation import Evaluation

SLOW_FIRST_CALL = 20  # times the median


@dataclass(frozen=True)
class Group:
    """What was measured together: all artifacts of a device, at one batch size, in turns."""

    evaluation: "Evaluation"
    batch_size: int
    notes: tuple[str, ...]  # warnings that belong to all of it
    standing: Timing

    def make_rows(self, key: str, *, first: bool) -> Iterator[Row]:
        """A row for each candidate, in their order.

        Args:
            key: hash of everything the group depends on.
            first: of the groups of this evaluation: its rows carry what need not be said again.
        """
        told: set[str] = set()  # variants whose pictures and training stand in a row already
        measured = {each.candidate.name: each for each in self.evaluation.measurements}
        for candidate in self.evaluation.candidates:
            each = measured.get(candidate.name)
            common: dict[str, Any] = {**self._frame(candidate), "key": key}
            if each is None or each.failed is not None:
                failed = each.failed if each else self.evaluation.failures.get(candidate.name)
                yield Row(**common, failed=failed, eliminated=self.evaluation.dropped.get(candidate.name))
                continue
            once = [describe_once] if first and candidate.variant not in told else []
            told.add(candidate.variant)
            figures, missing = self._measure(each, [*FIGURES, *once])
            counted = figures.get("macs_counters") or {}
            warnings = [*self._warnings(each), *cost.disagreements(counted), *missing]
            yield Row(**common, **figures, eliminated=each.eliminated, warnings=warnings)

    def _measure(self, each: Measurement, measures: "Sequence[Measure]") -> tuple[dict[str, Any], list[str]]:
        """Figures by name, and notes on those that are missing: after so long a time, one fault does not cost all."""
        figures: dict[str, Any] = {}
        missing = []
        for measure in measures:
            try:
                figures |= measure(self, each)
            except Exception as error:
                what = measure.__name__.partition("_")[2].replace("_", " ")
                missing.append(f"no figures of {what}: {describe_failure(error)}")
        return figures, missing

    @property
    def images(self) -> Images:
        return self.evaluation.processes.images

    @property
    def options(self) -> Options:
        return self.evaluation.processes.options

    def _frame(self, candidate: Candidate) -> dict[str, Any]:
        """What also failed rows carry."""
        batch_size, device = self.batch_size, self.evaluation.processes.device
        frame: dict[str, Any] = make_frame(candidate, self.options, self.images, device, batch_size, self.device_name)
        return {**frame, **candidate.facts}

    @cached_property
    def device_name(self) -> str:
        starts = (start for each in self.evaluation.measurements for start in each.starts.values())
        return next((start.device_name for start in starts), "")

    def find_dense(self, each: Measurement) -> Measurement | None:
        """The dense model in the same runtime."""
        same = (other for other in self._dense if other.candidate.runtime is each.candidate.runtime)
        return next(same, None)

    @cached_property
    def _dense(self) -> list[Measurement]:
        return [each for each in self.evaluation.measurements if each.candidate.dense and each.failed is None]

    def _warnings(self, each: Measurement) -> Iterator[str]:
        yield from (*each.inspection.notes, *each.candidate.notes, *self.options.notes, *self.notes)
        yield from latency.warnings(each.timing)
        seen, whole = len(each.predicted_k), len(self.images)
        if self.images.labels is not None and seen < whole and each.eliminated is None:
            yield f"scored on {seen:,} of {whole:,} test images, as its accuracy decided nothing"
        start, samples = each.starts.get(self.batch_size), each.timing.samples
        first = start.first_call_s if start else None
        if first and samples and first > max(SLOW_FIRST_CALL * float(np.median(samples)), 1):
            yield f"first call slow: {first:.1f} s, {first / float(np.median(samples)):,.0f} times the median"


def make_frame(
    candidate: Candidate, options: Options, images: Images, device: str, batch_size: int, device_name: str
) -> dict[str, Any]:
    """What every row of a candidate carries."""
    return {
        "variant": candidate.variant,
        "recipe": candidate.recipe,
        "methods": list(candidate.methods),
        "base": options.base,
        "dtype": candidate.dtype,
        "fallback_dtype": candidate.fallback_dtype,
        "runtime": candidate.runtime.name,
        "device": device,
        "device_name": device_name,
        "batch_size": batch_size,
        "batch_shape": "fixed" if has_fixed_batch(candidate) or candidate.runtime.static_shapes else "dynamic",
        "threads": options.threads,
        "dataset": images.name,
        "seed": options.seed,
        "config": dict(options.config),
        "environment": environment.capture(device, options.threads, runtimes.list_packages()),
        "verb": options.verb,
        "command": options.command,
    }


def describe_artifact(group: Group, each: Measurement) -> dict[str, Any]:
    out = group.options.out
    inside = out is not None and each.path.is_relative_to(out)
    return {
        "executed": each.inspection.executed,
        "integer_share": each.inspection.integer_share,
        "file_bytes": runtimes.count_bytes(each.path) if each.path.exists() else None,
        "artifact": str(each.path.relative_to(out)) if inside and out else None,
    }


def measure_accuracy(group: Group, each: Measurement) -> dict[str, Any]:
    """Of the images that were scored; against the dense model on the same ones."""
    labels, count = group.images.labels, len(each.predicted_k)
    dense = group.find_dense(each) or group.evaluation.dense
    figures: dict[str, Any] = {"n_images": count if labels is not None else None}
    same = dense is None or dense is each
    if not same and each.logits_sC is not None and dense is not None and dense.logits_sC is not None:
        size = min(len(each.logits_sC), len(dense.logits_sC))
        figures["sqnr_db"] = measure_sqnr(dense.logits_sC[:size], each.logits_sC[:size])
        common = min(count, len(dense.predicted_k))
        figures["agreement"] = float((each.predicted_k[:common] == dense.predicted_k[:common]).mean())
    if labels is None or not count:
        return figures
    right = each.predicted_k == labels[:count]
    low, high = statistics.wilson(int(right.sum()), count)
    figures |= {"top1": float(right.mean()), "top1_low": low, "top1_high": high}
    if not same and dense is not None:
        common = min(count, len(dense.predicted_k))
        before = dense.predicted_k[:common] == labels[:common]
        change = statistics.paired_change(right[:common], before)
        figures |= dict(zip(("top1_change", "top1_change_low", "top1_change_high"), change, strict=True))
        figures["mcnemar_p"] = statistics.mcnemar(right[:common], before)
    if count == len(labels):
        totals = np.bincount(labels, minlength=len(group.images.classes)).tolist()
        hits = np.bincount(labels[right], minlength=len(group.images.classes)).tolist()
        figures["class_recall"] = [hit / total if total else None for hit, total in zip(hits, totals, strict=True)]
    return figures


def measure_sqnr(expected: np.ndarray, got: np.ndarray) -> float | None:
    """In dB; None where the logits are the same, or all zero."""
    value = sqnr_db(torch.from_numpy(expected), torch.from_numpy(got))
    return value if np.isfinite(value) else None


def count_work(group: Group, each: Measurement) -> dict[str, Any]:
    spent, dense = each.candidate.cost, group.evaluation.dense
    if spent is None:
        return {}
    macs = spent().executed(group.batch_size, padded=each.candidate.runtime.pads_ragged)
    figures: dict[str, Any] = {
        "params": spent().params,
        "macs_per_image": macs,
        "macs_promised": spent().per_image.mean().item(),
    }
    if dense is not None and dense.candidate.cost is not None and macs:
        figures["ceiling"] = dense.candidate.cost().per_image.mean().item() / macs
    if (tokens_nL := spent().tokens_nL) is not None:
        figures["macs_quantiles"] = np.quantile(spent().per_image, [0, 0.1, 0.5, 0.9, 1]).tolist()
        figures["tokens_per_block"] = tokens_nL.double().mean(0).tolist()
    return figures


def measure_latency(group: Group, each: Measurement) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "latency_samples_s": each.timing.samples,
        "calls_per_round": each.timing.calls,
        **{f"{kind}_samples_s": timing.samples for kind, timing in each.extremes.items()},
    }
    dense, torch_dense = group.find_dense(each), group.evaluation.dense
    if torch_dense is not None and torch_dense.candidate.runtime.name != "torch":
        torch_dense = None
    references = {"speedup": dense, "overall": torch_dense}
    for name, reference in references.items():
        ratio = (1.0, 1.0, 1.0) if reference is each else None
        if reference is not None and reference is not each:
            ratio = latency.speedup(reference.timing, each.timing)
        figures |= dict(zip((name, f"{name}_low", f"{name}_high"), ratio or (None, None, None), strict=True))
    standing = latency.speedup(each.timing, group.standing)  # a ratio of latencies: ours over the reference's
    figures |= dict(zip(("standing", "standing_low", "standing_high"), standing or (None, None, None), strict=True))
    return figures


def measure_start(group: Group, each: Measurement) -> dict[str, Any]:
    start = each.starts.get(group.batch_size)
    if start is None:
        return {"load_s": next((other.load_s for other in each.starts.values()), None)}
    names = ("load_s", "first_call_s", "peak_memory_bytes")
    return {name: getattr(start, name) for name in names}


Measure = Callable[[Group, Measurement], Mapping[str, Any]]
FIGURES: list[Measure] = [
    describe_artifact,
    measure_accuracy,
    count_work,
    measure_latency,
    measure_start,
]
