"""A quantised file against the float file it was made from, in turns, in every runtime."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from compress.measure import latency
from compress.measure.latency import Timing
from compress.runtimes import Runtime
from compress.runtimes.workers import Worker
from compress.tables import show
from reports.text import figure

if TYPE_CHECKING:
    from compress.runtimes.ort import Kernel

SECONDS = 8.0  # of comparing latencies; more where the least number of rounds takes longer
PRECISION = 0.03  # of a speed-up, at which comparing ends earlier
PROFILED_CALLS = 20


@dataclass(frozen=True)
class Comparison:
    runtime: str
    before: Timing
    after: Timing

    @property
    def speedup(self) -> tuple[float, float, float] | None:
        return latency.speedup(self.before, self.after)


def candidates(path: Path) -> list[Path]:
    """Files that `path` may have been made from, the likeliest first.

    `a.int8.onnx` and `a_int8.onnx` belong to `a.onnx` beside them; `models/avit_int8-<hash>/avit_int8.onnx` of a run
    directory to a `models/avit-<hash>/avit.onnx`, `models/int8-<hash>/int8.onnx` to one of `vit`.
    """
    names = [name for mark in (".", "_") if (name := path.stem.rpartition(mark)[0])]
    beside = [each for name in names if (each := path.with_name(f"{name}.onnx")).is_file()]
    models = path.resolve().parent.parent
    if models.name != "models":
        return beside
    name = path.stem.rpartition("_")[0] or "vit"
    return beside + sorted(models.glob(f"{name}-*/{name}.onnx"), key=lambda each: -each.stat().st_mtime)


def counterpart(path: Path, images: np.ndarray, kernels: Sequence[Kernel], threads: int) -> Path | None:
    """The first candidate that takes the same images and has a float product for each integer one of `kernels`."""
    from compress.runtimes import ort

    wanted = {(kernel.inner, kernel.columns) for kernel in kernels if kernel.integer}
    for each in candidates(path):
        try:
            before = ort.profile(each, images, threads=threads)
        except Exception:  # another size of images, or damaged; ONNX Runtime's kinds share no base of their own
            continue
        if wanted <= {(kernel.inner, kernel.columns) for kernel in before if not kernel.integer}:
            return each
    return None


def run(
    before: Path, after: Path, images: np.ndarray, threads: int, known: Sequence[Runtime], console: Console
) -> list[Comparison]:
    """Measures and shows the latencies of both files.

    Args:
        images: (B, C, height, width).
        known: runtimes that take such files.
    """
    pairs = [(f"{runtime.name} {before}", f"{runtime.name} {after}") for runtime in known]
    with ExitStack() as stack:
        contestants = {}
        for runtime in known:
            for path in (before, after):
                worker = stack.enter_context(Worker.of(runtime.name, path, "cpu", threads))
                worker.put("images", [images])
                contestants[f"{runtime.name} {path}"] = partial(worker.turn, "images")
        timings = latency.interleave(contestants, budget_s=SECONDS, comparisons=pairs, precision=PRECISION)
    compared = [Comparison(r.name, timings[a], timings[b]) for r, (a, b) in zip(known, pairs, strict=True)]
    title = f"{after.name} against {before}, batch {len(images)} of noise, threads {threads}, in turns"
    show(console, title, map(_row, compared), ("runtime", "float", "quantised", "speed-up", "95 %", ""))
    return compared


def verdict(compared: Sequence[Comparison], before: Path | None) -> str:
    """What the reasons are reasons for."""
    if before is None:
        return "what limits the integers (no float file lies beside it to compare it with)"
    ratios = {each.runtime: ratio for each in compared if (ratio := each.speedup) is not None}
    slower = [name for name, (_, low, _) in ratios.items() if low <= 1]
    if slower:
        return f"why it is not faster than {before.name} in {', '.join(slower)}"
    return f"what limits it, though it is faster than {before.name}" if ratios else "what limits the integers"


def _row(each: Comparison) -> tuple[str, ...]:
    sides = {"float": each.before, "quantised": each.after}
    said: dict[str, list[str]] = {}
    for name, timing in sides.items():
        for note in [*latency.warnings(timing), *([f"failed: {timing.failed}"] if timing.failed else [])]:
            said.setdefault(note, []).append(name)
    medians = [f"{figure(float(np.median(t.samples)), 1e-3)} ms" if t.samples else "" for t in sides.values()]
    ratio = each.speedup
    gain = (f"{ratio[0]:.2f}x", f"{ratio[1]:.2f} to {ratio[2]:.2f}") if ratio else ("", "")
    return (each.runtime, *medians, *gain, "; ".join(f"{' and '.join(names)}: {note}" for note, names in said.items()))
