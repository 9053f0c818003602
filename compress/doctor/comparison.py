"""A quantized file against the float file it was made from, in every runtime."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.text import Text

import reports
from compress import files
from compress.evaluate import Candidate, Options, evaluate, take_noise
from compress.runtimes import Inspection, Runtime
from reports import Row

if TYPE_CHECKING:
    from compress.runtimes.ort_graph import Kernel

SECONDS = 8.0  # of comparing latencies; more where the least number of rounds takes longer
PROFILED_CALLS = 20


def list_sources(path: Path) -> list[Path]:
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


def find_source(path: Path, images: np.ndarray, kernels: Sequence[Kernel], threads: int) -> Path | None:
    """The first of `list_sources` that takes such images and has a float product for each integer one of `kernels`."""
    from compress.runtimes import ort_graph

    wanted = {(kernel.inner, kernel.columns) for kernel in kernels if kernel.integer}
    for each in list_sources(path):
        try:
            before = ort_graph.profile(each, images, threads=threads)
        except Exception:  # another size of images, or damaged; ONNX Runtime's kinds share no base of their own
            continue
        if wanted <= {(kernel.inner, kernel.columns) for kernel in before if not kernel.integer}:
            return each
    return None


def compare_files(
    before: Path,
    after: Path,
    images: np.ndarray,
    threads: int,
    known: Sequence[tuple[Runtime, Inspection]],
    out: Path | None,
    console: Console,
) -> list[Row]:
    """Measures and shows both files in each runtime.

    Args:
        images: of noise, (B, C, height, width).
        known: runtimes that take such files, and what they compute `after` in.
        out: run directory for the rows.
    """

    def make_candidate(runtime: Runtime, path: Path, dtype: str) -> Candidate:
        key = files.key(str(path.resolve()), path.stat().st_mtime_ns)
        dense = path is before
        return Candidate(variant=path.name, runtime=runtime, build=lambda: path, key=key, dense=dense, dtype=dtype)

    candidates = [
        make_candidate(runtime, path, dtype)
        for runtime, inspection in known
        for path, dtype in ((before, "fp32"), (after, inspection.executed.removesuffix("-simulated")))
    ]
    options = Options(
        verb="doctor", base=before.name, batch_sizes=(len(images),), threads=threads, seconds=SECONDS, out=out
    )
    console.print(Text(f"{after.name} against {before}, batch {len(images)} of random input", "bold"))
    rows = evaluate(candidates, take_noise(images), options, partial(console.print, markup=False))
    console.print(reports.rich_table(rows))
    return rows


def judge(rows: Sequence[Row], before: Path | None) -> str:
    """What the reasons are reasons for."""
    if before is None:
        return "bottlenecks of the integer kernels (no float file next to it to compare with)"
    timed = [row for row in rows if not row.dense and row.speedup_low is not None]
    slower = [row.runtime for row in timed if (row.speedup_low or 0) <= 1]
    if slower:
        return f"why it is not faster than {before.name} in {', '.join(slower)}"
    return f"bottlenecks, although it is faster than {before.name}" if timed else "bottlenecks of the integer kernels"
