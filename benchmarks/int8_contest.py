"""The rows of `benchmarks/int8.py`: their files, a process for each, and what is found about them.

Legend: B images, C classes.
"""

import hashlib
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import int8_peers
import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from baselines.errors import InputError
from baselines.vit import VisionTransformer
from compress import files, runtimes, variant
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import Checkpoint
from compress.cli import terminal
from compress.measure import latency
from compress.measure.statistics import mcnemar
from compress.methods import Method
from compress.quantization.sensitivity import sqnr_db
from compress.runtimes import Inspection
from compress.runtimes.workers import ROOT, Worker
from compress.training import finetuning

OURS = "ours_"
BASELINE = "torch"


@dataclass(frozen=True)
class Row:
    """What is loaded, and by which runtime; what torchao made runs in `int8_peers.py`."""

    runtime: str
    methods: tuple[Method, ...] = ()
    made: str = ""  # by a peer: its name there, and the file
    precision: str = "fp32"  # of what torchao leaves in float


@dataclass
class Material:
    """The model and images that all rows share."""

    model: VisionTransformer
    content: Checkpoint
    calibration: Tensor
    images: Tensor  # that are compared
    labels: np.ndarray | None  # of those; None for noise

    @property
    def digest(self) -> str:
        pixels = hashlib.sha256(self.calibration.numpy().data).hexdigest()
        return f"{checkpoint.digest(self.content.state)[:8]}-{pixels[:8]}"


class Contest:
    """All rows, each loaded in a process of its own.

    Args:
        folder: for artifacts of this material; those that are there already are used again.
        stack: ends the processes.
    """

    def __init__(self, material: Material, folder: Path, threads: int, stack: ExitStack):
        self.material, self.folder, self.threads, self.stack = material, folder, threads, stack
        self.workers: dict[str, Worker] = {}
        self.paths: dict[str, Path] = {}
        self.failed: dict[str, str] = {}
        self.inspected: dict[str, Inspection] = {}
        self.calibrated: dict[str, VisionTransformer] = {}
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "images.npy", material.calibration.numpy())

    def enter(self, name: str, row: Row) -> None:
        """Makes the artifact of a row where it is missing, and loads it; a row that fails is kept with the reason."""
        try:
            path = self.prepare(row) if row.made else self.build(row)
            if row.runtime == "torchao":
                serve = [sys.executable, int8_peers.__file__, "serve", str(path), str(self.threads), row.precision]
                worker = self.stack.enter_context(Worker(serve, self.threads))
            else:
                worker = self.stack.enter_context(Worker.of(row.runtime, path, "cpu", self.threads))
            worker.ready()
        except (InputError, RuntimeError) as error:
            self.failed[name] = str(error)
        else:
            self.workers[name], self.paths[name] = worker, path

    def build(self, row: Row) -> Path:
        """Our artifact; rows of one kind of file and the same methods share it."""
        runtime, whole = runtimes.get(row.runtime), variant.Variant(row.methods)
        settings = json.dumps(whole.describe(), sort_keys=True)
        key = f"-{hashlib.sha256(settings.encode()).hexdigest()[:8]}" if row.methods else ""
        path = self.folder / f"{whole.name}{key}{runtime.suffix}"
        if not path.exists():
            model = self.calibrate(whole)
            given = self.material.content
            content = Checkpoint(
                given.config, tuple(whole.describe()), model.state_dict(), given.dataset, given.classes, given.mean,
                given.std,
            )  # fmt: skip
            runtime.build(model, whole, content, path, self.material.calibration)
        return path

    def calibrate(self, whole: variant.Variant) -> VisionTransformer:
        """The model of some methods; what an engine may do with the rest of it changes nothing here."""
        key = str([{**entry, "rest": None} for entry in whole.describe()])
        if key not in self.calibrated:
            model = variant.prepare(self.material.model, whole.methods)
            images = [self.material.calibration]
            self.calibrated[key] = finetuning.calibrate(model, whole.methods, images, torch.device("cpu"))
        return self.calibrated[key]

    def prepare(self, row: Row) -> Path:
        """The artifact that a peer makes, in a process of its own.

        Raises:
            RuntimeError: it could not.
        """
        for runtime in ("torch", "onnxruntime"):
            self.build(Row(runtime))  # the float model, which peers start from
        name, path = row.made.split("/")[0], self.folder / row.made
        if not path.exists():
            paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            command = [sys.executable, int8_peers.__file__, "prepare", name, str(self.folder)]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths}
            )
            if done.returncode:
                last = [line.strip() for line in done.stderr.splitlines() if line.strip()][-1:]
                raise RuntimeError(": ".join([f"{name} ended with exit code {done.returncode}", *last]))
        return path

    def logits(self, batch_size: int) -> dict[str, np.ndarray]:
        """Logits (B, C) of each row, of batches of one size, filled up with copies of the last image."""
        images = self.material.images.numpy()
        missing = -len(images) % batch_size
        whole = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)), "edge")
        found = {}
        for name, worker in self.workers.items():
            try:
                parts = [worker.logits(batch) for batch in np.split(whole, len(whole) // batch_size)]
            except RuntimeError as error:
                self.failed[name] = str(error)
            else:
                found[name] = np.concatenate(parts).astype(np.float64)[: len(images)]
        return found

    def times(self, names: list[str], batch_size: int, seconds: float) -> dict[str, latency.Timing]:
        """Of the rows that did not fail, in turns."""
        images = self.material.images.numpy()[: len(self.material.images) // batch_size * batch_size]
        batches = np.split(images[: 8 * batch_size], len(images[: 8 * batch_size]) // batch_size)
        for name in names:
            self.workers[name].put(str(batch_size), batches)
        turns = {name: partial(self.workers[name].turn, str(batch_size)) for name in names}
        timings = latency.interleave(turns, budget_s=seconds)
        self.failed |= {name: timing.failed for name, timing in timings.items() if timing.failed}
        return {name: timing for name, timing in timings.items() if not timing.failed}

    def inspect(self, name: str) -> Inspection:
        """What the kernels did; asked for after the first measurement, since it loads the artifact once more."""
        if name not in self.inspected:
            try:
                self.inspected[name] = self.workers[name].inspect()
            except RuntimeError as error:
                self.inspected[name] = Inspection(f"not known ({error})")
        return self.inspected[name]


def show(contest: Contest, batch_size: int, seconds: float, title: str) -> None:
    """Measures one batch size and prints its table, then the rows that failed."""
    logits = contest.logits(batch_size)
    timings = contest.times(list(logits), batch_size, seconds)
    best = best_peer(timings)
    table = Table(title=f"{title}; best peer {best}")
    headings = ["executed", "p50 ms", "speed-up [95 %]", "to best peer [95 %]", "SQNR dB", "agreement", "MB", "of fp32"]
    for heading in ("row", *headings, *(["top-1", "change", "p"] if contest.material.labels is not None else [])):
        table.add_column(heading, justify="left" if heading in ("row", "executed") else "right")
    for name, timing in timings.items():
        size = files.size(contest.paths[name])
        table.add_row(
            name,
            executed(contest.inspect(name)),
            f"{np.median(timing.samples) * 1e3:.2f}",
            *(ratio(timings.get(other or ""), timing) if name != other else "" for other in (BASELINE, best)),
            *closeness(logits.get(BASELINE), logits[name], name),
            f"{size / 1e6:.2f}",
            f"{size / files.size(contest.paths[BASELINE]):.1%}" if BASELINE in contest.paths else "",
            *accuracy(contest.material.labels, logits.get(BASELINE), logits[name]),
        )
    console = terminal.make_console()
    console.print(table)
    for name, reason in contest.failed.items():
        console.print(f"{name}: {reason}")


def best_peer(timings: dict[str, latency.Timing]) -> str | None:
    """The one of most speed-up; medians over a whole run would depend on what else the machine did."""
    if BASELINE not in timings:
        return None
    speedups = {
        name: latency.speedup(timings[BASELINE], timing) or (0.0,)
        for name, timing in timings.items()
        if not name.startswith(OURS)
    }
    return max(speedups, key=lambda name: speedups[name][0])


def executed(found: Inspection) -> str:
    """What the kernels did, and their share of integers."""
    share = "" if found.integer_share is None else f" {found.integer_share:.0%}"
    rest = next((", rest bf16" for note in found.notes if "bf16" in note and "no bf16" not in note), "")
    return found.executed + share + rest


def ratio(base: latency.Timing | None, timing: latency.Timing) -> str:
    found = latency.speedup(base, timing) if base else None
    return "{:.2f} [{:.2f}, {:.2f}]".format(*found) if found else ""


def closeness(expected: np.ndarray | None, got: np.ndarray, name: str) -> tuple[str, str]:
    """Power of the logits over that of their error, in dB, and share of images given the same class."""
    if expected is None or name == BASELINE:
        return "", ""
    power = sqnr_db(torch.from_numpy(expected), torch.from_numpy(got))
    return f"{power:.1f}", f"{(got.argmax(1) == expected.argmax(1)).mean():.3f}"


def accuracy(labels: np.ndarray | None, expected: np.ndarray | None, got: np.ndarray) -> list[str]:
    """top-1, its change against the baseline in points, and McNemar's p of that."""
    if labels is None or expected is None:
        return []
    before, after = (logits.argmax(1) == labels for logits in (expected, got))
    return [f"{after.mean():.2%}", f"{100 * (after.mean() - before.mean()):+.2f}", f"{mcnemar(before, after):.3f}"]
