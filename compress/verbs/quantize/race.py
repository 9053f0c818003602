"""Builds the file of every lowering, scores it and times all of them in turns, each in a process of its own."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.classifier import Classifier
from baselines.data import Data
from compress import loading, variant
from compress.checkpoints.checkpoint import Checkpoint
from compress.measure import latency
from compress.measure.latency import Timing
from compress.methods import Method
from compress.runtimes import Inspection
from compress.runtimes.workers import Worker
from compress.training import finetuning
from compress.training.data import parity_images
from compress.variant import Variant
from compress.verbs.quantize.request import Lowering

PRECISION = 0.03  # half the width of a speed-up's interval, as a share of it
BATCH = 50  # of images that are scored


@dataclass(frozen=True)
class Entry:
    """One lowering with its file, and what was measured; where it failed, why."""

    lowering: Lowering
    path: Path
    inspection: Inspection | None = None
    logits: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))  # (test images, classes)
    timing: Timing = field(default_factory=Timing)
    failed: str | None = None


@dataclass(frozen=True)
class Source:
    """A float model, and all that lowering it takes."""

    model: Classifier
    which: Variant
    content: Checkpoint
    data: Data
    calibration: list[Tensor]
    seen: dict[str, Any]  # what is kept of those images in a file
    made: dict[str, Classifier] = field(default_factory=dict)  # calibrated already, by settings

    def quantised(self, method: Method) -> Classifier:
        """The model with a method applied and calibrated, not converted."""
        key = identity(method)
        if key not in self.made:
            model = variant.prepare(self.model, [method])
            self.made[key] = finetuning.calibrate(model, [method], self.calibration, torch.device("cpu"))
        return self.made[key]

    def build(self, lowering: Lowering, folder: Path) -> Path:
        """Writes the file of a lowering; raises RuntimeError where that fails."""
        methods = [] if lowering.method is None else [lowering.method]
        whole = replace(self.which, methods=(*self.which.methods, *methods))
        model = self.model if lowering.method is None else self.quantised(lowering.method)
        seen = self.seen if methods else self.content.calibration
        content = loading.pack(model, whole.methods, self.data, self.content.config, calibration=seen)
        path = folder / f"{files_name(lowering)}{lowering.runtime.suffix}"
        lowering.runtime.build(model, whole, content, path, parity_images(self.data), self.calibration)
        return path


def identity(method: Method) -> str:
    """The same for methods that give the same model: `rest` is for the engine alone."""
    return f"{method.name} {method.model_dump_json(exclude={'rest'})}"


def files_name(lowering: Lowering) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in lowering.name)


def race(
    source: Source,
    lowerings: Sequence[Lowering],
    scored: Data,
    folder: Path,
    *,
    batch_size: int,
    threads: int,
    seconds: float,
    say: Callable[[str], None],
) -> list[Entry]:
    """What was measured of each lowering, in their order; the first is what the others are compared with.

    Args:
        scored: whose test images count.
        folder: for the files.
    """
    built = []
    for lowering in lowerings:
        say(f"building {lowering.name}")
        try:
            built.append(Entry(lowering, source.build(lowering, folder)))
        except RuntimeError as error:
            built.append(Entry(lowering, folder, failed=str(error).strip().splitlines()[0]))
    return _measure(built, scored, batch_size, threads, seconds)


def _measure(built: list[Entry], data: Data, batch_size: int, threads: int, seconds: float) -> list[Entry]:
    batches = [images.numpy() for images, _ in data.batches(data.test, batch_size, torch.device("cpu"))][:16]
    batches = [batch for batch in batches if len(batch) == batch_size] or [_filled(batches[0], batch_size)]
    with ExitStack() as stack, tempfile.TemporaryDirectory() as cache:
        environment = {"TORCHINDUCTOR_CACHE_DIR": cache}
        entries, workers = [], {}
        for entry in built:
            if entry.failed is None:
                runtime = entry.lowering.runtime
                worker = stack.enter_context(Worker.of(runtime.name, entry.path, "cpu", threads, environment))
                entry = _scored(entry, worker, data, batch_size)
                if entry.failed is None:
                    worker.put("batches", batches)
                    workers[entry.lowering.name] = worker
            entries.append(entry)
        first = next(iter(workers), "")
        timings = latency.interleave(
            {name: partial(worker.turn, "batches") for name, worker in workers.items()},
            budget_s=seconds,
            comparisons=[(first, name) for name in workers if name != first],
            precision=PRECISION,
        )
    return [_timed(entry, timings) for entry in entries]


def _scored(entry: Entry, worker: Worker, data: Data, batch_size: int) -> Entry:
    """Logits of all test images, and what the kernels did. Compilers see the one batch size that is timed."""
    size = batch_size if entry.lowering.runtime.fixed_shapes else BATCH
    try:
        worker.ready()
        found = [
            worker.logits(_filled(images.numpy(), size))[: len(images)]
            for images, _ in data.batches(data.test, size, torch.device("cpu"))
        ]
        return Entry(entry.lowering, entry.path, worker.inspect(), np.concatenate(found))
    except RuntimeError as error:
        return Entry(entry.lowering, entry.path, failed=str(error).strip().splitlines()[0])


def _timed(entry: Entry, timings: dict[str, Timing]) -> Entry:
    timing = timings.get(entry.lowering.name)
    if timing is None or entry.failed is not None:
        return entry
    return Entry(entry.lowering, entry.path, entry.inspection, entry.logits, timing, timing.failed)


def _filled(images: np.ndarray, size: int) -> np.ndarray:
    """Images with copies of the last one, so that there are `size`."""
    return np.pad(images, ((0, size - len(images)), (0, 0), (0, 0), (0, 0)), "edge")
