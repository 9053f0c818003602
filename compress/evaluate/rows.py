"""What a bench knows about one artifact -> one `Row`."""

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from baselines.macs import dense_macs
from baselines.vit import VisionTransformer, ViTConfig
from compress import files, loading
from compress.config import BenchConfig
from compress.importers import Hints
from compress.measure import cost, environment, examples, latency, statistics
from compress.measure.cost import Cost
from compress.measure.latency import Timing
from compress.runtimes import Inspection, Runtime
from compress.training.workshop import Built, Workshop
from compress.variant import Variant
from reports import Row

MANY_CLASSES = 100  # above it a confusion matrix says little and fills the file
FEW_IMAGES = 32  # calibration images, below which chance decides on ranges
SLOW_FIRST_CALL = 20  # times the median


@dataclass(frozen=True)
class Request:
    """What a person asked for, resolved."""

    config: BenchConfig
    out: Path
    devices: tuple[str, ...]
    runtimes: tuple[str, ...]  # empty: all that run a variant as it is meant
    batch_sizes: tuple[int, ...]
    threads: int
    checkpoint: Path | None = None
    plain: bool = True  # add the plain alternatives (plain.py)
    precision: float = 0.03  # half the width of a speed-up's interval, as a share of it, at which measuring stops
    seconds: float = 20.0  # of latency measurement for each device and batch size, at most
    break_even: bool = False  # go on to larger batches until every variant has won
    remeasure: bool = False
    tensorboard: bool = False
    hints: Hints = field(default_factory=Hints)  # what the file of `checkpoint` does not say itself
    notes: tuple[str, ...] = ()  # warnings that belong to every row
    command: str = field(default_factory=lambda: typed_command(sys.argv))


@dataclass(frozen=True)
class Candidate:
    """One artifact, and what its model costs."""

    built: Built
    runtime: Runtime
    artifact: Path
    cost: Cost

    @property
    def name(self) -> str:
        return f"{self.built.variant.name} in {self.runtime.name}"


@dataclass(frozen=True)
class ColdStart:
    """What a fresh process needs."""

    device_name: str
    load_s: float
    first_call_s: dict[int, float]  # by batch size, where it is cold
    peak_memory_bytes: dict[int, int | None]  # by batch size


@dataclass(frozen=True)
class Measured:
    """A candidate on a device, with all that was found out about it."""

    candidate: Candidate
    start: ColdStart
    inspection: Inspection
    predicted: np.ndarray  # class of each test image
    timing: Timing = field(default_factory=Timing)
    easy: Timing | None = None  # batch 1, images that cost little; None where all cost the same
    hard: Timing | None = None


@dataclass(frozen=True)
class Group:
    """What was measured together: all artifacts of a device, at one batch size, in turns."""

    request: Request
    workshop: Workshop
    device: str
    batch_size: int
    key: str  # hash of everything the group depends on
    measured: list[Measured]
    notes: tuple[str, ...]  # warnings that belong to all of it
    first: bool  # of the groups of this bench: its rows carry what need not be said again

    def rows(self) -> Iterator[Row]:
        told: set[str] = set()  # variants whose pictures and training stand in a row already
        for each in self.measured:
            candidate = each.candidate
            which = candidate.built.variant
            common = frame(self.request, self.workshop, which, self.device) | {
                "runtime": candidate.runtime.name,
                "device": self.device,
                "device_name": each.start.device_name,
                "batch_size": self.batch_size,
                "key": self.key,
            }
            if each.timing.failed is not None:
                yield Row(**common, failed=each.timing.failed)
                continue
            once = self._once(each) if self.first and which.name not in told else {}
            told.add(which.name)
            counted = once.get("macs_counters") or {}
            yield Row(
                **common,
                executed=each.inspection.executed,
                integer_share=each.inspection.integer_share,
                params=candidate.cost.params,
                file_bytes=files.size(candidate.artifact),
                warnings=[*self._warnings(each), *cost.disagreements(counted)],
                artifact=str(candidate.artifact.relative_to(self.request.out)),
                **self._accuracy(each),
                **self._cost(each),
                **self._latency(each),
                load_s=each.start.load_s,
                first_call_s=each.start.first_call_s.get(self.batch_size),
                peak_memory_bytes=each.start.peak_memory_bytes.get(self.batch_size),
                **once,
            )

    def _baseline(self, each: Measured) -> Measured | None:
        """The dense model in the same runtime."""
        runtime = each.candidate.runtime
        same = (other for other in self._dense if other.candidate.runtime is runtime)
        return next(same, None)

    @cached_property
    def _dense(self) -> list[Measured]:
        return [each for each in self.measured if not each.candidate.built.variant.methods]

    def _warnings(self, each: Measured) -> Iterator[str]:
        yield from (*each.inspection.notes, *self.request.notes, *self.notes, *latency.warnings(each.timing))
        calibrated = min(self.request.config.calibration_images, len(self.workshop.data.train.labels))
        if each.candidate.built.variant.numbers == "int8" and calibrated < FEW_IMAGES:
            yield f"ranges come from {calibrated} images: fewer than {FEW_IMAGES} leave much to chance"
        first, samples = each.start.first_call_s.get(self.batch_size), each.timing.samples
        if first and samples and first > max(SLOW_FIRST_CALL * float(np.median(samples)), 1):
            yield f"first call slow: {first:.1f} s, {first / float(np.median(samples)):,.0f} times the median"

    def _accuracy(self, each: Measured) -> dict[str, Any]:
        labels = self.workshop.data.test.labels.numpy()
        right = each.predicted == labels
        low, high = statistics.wilson(int(right.sum()), len(right))
        figures: dict[str, Any] = {"n_images": len(labels), "top1": float(right.mean())}
        figures |= {"top1_low": low, "top1_high": high}
        baseline = self._baseline(each) or next(iter(self._dense), None)
        if baseline is not None and baseline is not each:
            figures["agreement"] = float((each.predicted == baseline.predicted).mean())
            figures["mcnemar_p"] = statistics.mcnemar(right, baseline.predicted == labels)
        classes = len(self.workshop.data.classes)
        totals = np.bincount(labels, minlength=classes)
        hits = np.bincount(labels[right], minlength=classes)
        figures["class_recall"] = [h / t if t else None for h, t in zip(hits.tolist(), totals.tolist(), strict=True)]
        return figures

    def _cost(self, each: Measured) -> dict[str, Any]:
        spent, geometry = each.candidate.cost, self.workshop.geometry
        macs = spent.executed(self.batch_size, padded=each.candidate.runtime.padded)
        figures: dict[str, Any] = {
            "macs_per_image": macs,
            "macs_promised": spent.per_image.mean().item(),
            "ceiling": (dense_macs(geometry) if isinstance(geometry, ViTConfig) else spent.dense) / macs,
        }
        if spent.tokens_nL is not None:
            figures["macs_quantiles"] = np.quantile(spent.per_image, [0, 0.1, 0.5, 0.9, 1]).tolist()
            figures["tokens_per_block"] = spent.tokens_nL.double().mean(0).tolist()
        return figures

    def _latency(self, each: Measured) -> dict[str, Any]:
        figures: dict[str, Any] = {
            "latency_samples_s": each.timing.samples,
            "calls_per_round": each.timing.calls,
            "easy_samples_s": each.easy.samples if each.easy else [],
            "hard_samples_s": each.hard.samples if each.hard else [],
        }
        for name, reference in (("speedup", self._baseline(each)), ("overall", self._reference)):
            ratio = (1.0, 1.0, 1.0) if reference is each else None
            if reference is not None and reference is not each:
                ratio = latency.speedup(reference.timing, each.timing)
            figures |= dict(zip((name, f"{name}_low", f"{name}_high"), ratio or (None, None, None), strict=True))
        return figures

    @property
    def _reference(self) -> Measured | None:
        """The dense model in plain torch: what somebody who changes nothing has."""
        return next((each for each in self._dense if each.candidate.runtime.name == "torch"), None)

    def _once(self, each: Measured) -> dict[str, Any]:
        """What is the same in every row of a variant, and long."""
        built, labels = each.candidate.built, self.workshop.data.test.labels.numpy()
        classes = list(self.workshop.data.classes)
        found: dict[str, Any] = {"classes": classes}
        model = loading.restore(built.path)[0]
        if isinstance(model, VisionTransformer):
            chosen = examples.choose(labels, (self._reference or self.measured[0]).predicted)
            found["examples"] = examples.describe(model, self.workshop.data, chosen)
        if each.candidate.cost.fixed and built.variant.numbers in ("fp32", "bf16"):  # counters see no integer products
            found["macs_counters"] = cost.count_otherwise(each.candidate.cost)
        if len(classes) <= MANY_CLASSES:
            pairs = np.zeros((len(classes), len(classes)), int)
            np.add.at(pairs, (labels, each.predicted), 1)
            found["confusion"] = pairs.tolist()
        record = built.path.with_name("training.jsonl")
        if record.exists():
            found["training"] = [json.loads(line) for line in record.read_text().splitlines()]
        return found


def typed_command(argv: list[str]) -> str:
    """What a person types to have the same again."""
    name = Path(argv[0]).name
    start = ["python", "-m", "compress"] if name == "__main__.py" else ["python", name]
    return shlex.join([*(start if name.endswith(".py") else [name]), *argv[1:]])


def failed_row(
    request: Request, workshop: Workshop, which: Variant, reason: str, runtime: str = "", device: str = ""
) -> Row:
    """A variant that could not be made or loaded, and why."""
    return Row(
        **frame(request, workshop, which, "cpu"),
        runtime=runtime or ", ".join(request.runtimes) or "auto",
        device=device or ", ".join(request.devices),
        device_name="",
        batch_size=request.batch_sizes[0],
        failed=reason,
    )


def frame(request: Request, workshop: Workshop, which: Variant, device: str) -> dict[str, Any]:
    """What every row of a request carries."""
    return {
        "variant": which.name,
        "methods": which.describe(),
        "threads": request.threads,
        "dataset": workshop.data.name,
        "seed": request.config.seed,
        "config": {**workshop.config.model_dump(mode="json"), "model": workshop.geometry.model_dump(mode="json")},
        "environment": environment.capture(device, request.threads),
        "command": request.command,
    }
