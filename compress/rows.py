"""What a bench knows about one artifact -> one `Row`."""

import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compress.config import BenchConfig
from compress.measure import cost, environment, latency, memory, statistics
from compress.measure.cost import Cost
from compress.measure.latency import Timing
from compress.runtimes import Runtime, Session
from compress.variant import Variant
from compress.workshop import Built, Workshop
from reports import Row


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
    seconds: float = 8.0  # of latency measurement for each device and batch size
    remeasure: bool = False
    command: str = field(default_factory=lambda: typed_command(sys.argv))


@dataclass(frozen=True)
class Candidate:
    """One artifact, and what its model costs."""

    built: Built
    runtime: Runtime
    artifact: Path
    cost: Cost


@dataclass(frozen=True)
class Loaded:
    """A candidate on a device, its answers known."""

    candidate: Candidate
    session: Session
    executed: str
    notes: tuple[str, ...]
    predicted: np.ndarray  # class of each test image


@dataclass(frozen=True)
class Group:
    """What was measured together: all artifacts of a device, at one batch size, in turns."""

    request: Request
    workshop: Workshop
    device: str
    batch_size: int
    key: str  # hash of everything the group depends on
    loaded: list[Loaded]
    timings: list[Timing]

    def rows(self) -> Iterator[Row]:
        """One row for each artifact; measures its cold start on the way."""
        for each, timing in zip(self.loaded, self.timings, strict=True):
            candidate = each.candidate
            yield Row(
                **frame(self.request, self.workshop, candidate.built.variant, self.device),
                runtime=candidate.runtime.name,
                device=self.device,
                device_name=each.session.device_name,
                executed=each.executed,
                batch_size=self.batch_size,
                params=candidate.cost.params,
                file_bytes=candidate.artifact.stat().st_size,
                latency_samples_s=timing.samples,
                warnings=[*each.notes, *latency.warnings(timing)],
                artifact=str(candidate.artifact.relative_to(self.request.out)),
                key=self.key,
                **self._accuracy(each),
                **self._cost(each),
                **self._speed(each, timing),
                **self._cold_start(candidate),
            )

    def _baseline(self, each: Loaded) -> int:
        """Where the dense model in the same runtime stands."""
        runtime = each.candidate.runtime
        return next(
            index
            for index, other in enumerate(self.loaded)
            if other.candidate.runtime is runtime and not other.candidate.built.variant.methods
        )

    def _accuracy(self, each: Loaded) -> dict[str, Any]:
        baseline = self.loaded[self._baseline(each)]
        labels = self.workshop.data.test.labels.numpy()
        right = each.predicted == labels
        low, high = statistics.wilson(int(right.sum()), len(right))
        figures: dict[str, Any] = {"n_images": len(labels), "top1": float(right.mean())}
        figures |= {"top1_low": low, "top1_high": high}
        if baseline is not each:
            figures["agreement"] = float((each.predicted == baseline.predicted).mean())
            figures["mcnemar_p"] = statistics.mcnemar(right, baseline.predicted == labels)
        return figures

    def _cost(self, each: Loaded) -> dict[str, Any]:
        spent, group_size = each.candidate.cost, each.candidate.runtime.group_size
        macs = spent.executed(self.batch_size, group_size)
        figures: dict[str, Any] = {
            "macs_per_image": macs,
            "macs_promised": spent.per_image.mean().item(),
            "ceiling": spent.dense / macs,
        }
        if spent.tokens_nL is not None:
            figures["macs_quantiles"] = np.quantile(spent.per_image, [0, 0.1, 0.5, 0.9, 1]).tolist()
            figures["tokens_per_block"] = spent.tokens_nL.double().mean(0).tolist()
        if not each.candidate.built.variant.methods:
            figures["macs_counters"] = cost.count_otherwise(spent.model)
        return figures

    def _speed(self, each: Loaded, timing: Timing) -> dict[str, Any]:
        reference = self._baseline(each)
        if self.loaded[reference] is each:
            return {"speedup": 1.0, "speedup_low": 1.0, "speedup_high": 1.0}
        middle, low, high = latency.speedup(self.timings[reference], timing)
        return {"speedup": middle, "speedup_low": low, "speedup_high": high}

    def _cold_start(self, candidate: Candidate) -> dict[str, Any]:
        geometry = self.workshop.config.model
        shape = (self.batch_size, geometry.channels, *geometry.image_size)
        start = memory.cold_start(candidate.runtime.name, candidate.artifact, self.device, self.request.threads, shape)
        return vars(start)


def typed_command(argv: list[str]) -> str:
    """What a person types to have the same again."""
    name = Path(argv[0]).name
    start = ["python", "-m", "compress"] if name == "__main__.py" else ["python", name]
    return shlex.join([*(start if name.endswith(".py") else [name]), *argv[1:]])


def failed_row(request: Request, workshop: Workshop, which: Variant, reason: str) -> Row:
    """A variant that could not be made, and why."""
    return Row(
        **frame(request, workshop, which, "cpu"),
        runtime=", ".join(request.runtimes) or "auto",
        device=", ".join(request.devices),
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
        "config": workshop.config.model_dump(mode="json"),
        "environment": environment.capture(device, request.threads),
        "command": request.command,
    }
