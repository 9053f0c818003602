"""`compress quantize CHECKPOINT`: one float model -> int8 beside it, compared with what it was."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from baselines.data import Data
from baselines.errors import InputError
from compress import variant
from compress.export import export_onnx
from compress.images import check_classes, load_data, parity_images, sample_images
from compress.measure import accuracy, environment, latency, statistics
from compress.methods import Int8
from compress.runtimes import Inspection
from compress.runtimes.workers import Worker

PRECISION = 0.03  # half the width of the speed-up's interval, as a share of it


@dataclass(frozen=True)
class Side:
    """One column of the comparison."""

    name: str
    path: Path
    inspection: Inspection
    right: np.ndarray  # (n,) bool
    predicted: np.ndarray
    timing: latency.Timing


def quantize(
    path: Path, *, data_name: str | None, calibration_images: int, batch_size: int, threads: int, console: Console
) -> Path:
    """Writes `<name>.onnx` and `<name>.int8.onnx` beside the checkpoint, and prints before and after.

    Raises:
        InputError: the checkpoint or the data cannot be used.
    """
    torch.set_num_threads(threads)
    model, before, content = variant.restore(path)
    if before.numbers != "fp32":
        raise InputError(f"{path} is already {before.name!r}; give the checkpoint of a float model")
    config = content.config
    data = load_data(data_name or content.dataset, config.image_size, config.channels, path.parent)
    check_classes(path, content.classes, data)
    data = data.normalised(content.mean, content.std)

    method = Int8()
    quantised = variant.prepare(model, [method])
    method.calibrate(quantised, sample_images(data, calibration_images))
    after = variant.Variant(variant.check_order(path.name, [*before.methods, method]))
    images = parity_images(data)
    float_path, int8_path = path.with_suffix(".onnx"), path.with_suffix(".int8.onnx")
    export_onnx(variant.convert(model, before.methods), float_path, images, content)
    packed = variant.pack(quantised, after.methods, data, config)
    export_onnx(variant.convert(quantised, after.methods), int8_path, images, packed)

    sides = _measure({before.name: float_path, after.name: int8_path}, data, batch_size, threads)
    labels = data.test.labels
    console.print(comparison(sides[0], sides[1], batch_size))
    for note in sides[1].inspection.notes:
        console.print(f"note: {note}")
    machine = f"{environment.cpu_name()}, threads {threads}"
    console.print(f"measured on {machine}, {len(labels)} test images of {data.name}")
    console.print(f"wrote {float_path} and {int8_path}")
    return int8_path


def _measure(paths: dict[str, Path], data: Data, batch_size: int, threads: int) -> list[Side]:
    """Scores and times artifacts, each in a process of its own."""
    labels = data.test.labels.numpy()
    batch = next(iter(data.batches(data.test, batch_size, torch.device("cpu"))))[0].numpy()
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker.of("onnxruntime", path, "cpu", threads)) for path in paths.values()]
        predicted = [accuracy.predict(worker.predict, data) for worker in workers]
        for worker in workers:
            worker.put("batch", [batch])
        names = list(paths)
        timings = latency.interleave(
            {name: partial(worker.turn, "batch") for name, worker in zip(names, workers, strict=True)},
            budget_s=10,
            comparisons=[(names[0], names[1])],
            precision=PRECISION,
        )
        inspected = [worker.inspect() for worker in workers]
    return [
        Side(name, path, inspection, guess == labels, guess, timings[name])
        for (name, path), guess, inspection in zip(paths.items(), predicted, inspected, strict=True)
    ]


def comparison(before: Side, after: Side, batch_size: int) -> Table:
    """Accuracy, size and latency of two models, side by side."""
    table = Table(title=f"{before.name} -> {after.name}, ONNX Runtime")
    for heading in ("", "before", "after", "change"):
        table.add_column(heading, justify="right" if heading else "left")
    top1 = [side.right.mean() * 100 for side in (before, after)]
    p = statistics.mcnemar(after.right, before.right)
    meaning = "no difference to be seen" if p >= 0.05 else "a real difference"
    table.add_row("kernels", before.inspection.executed, after.inspection.executed, "")
    table.add_row(
        "top-1", f"{top1[0]:.2f} %", f"{top1[1]:.2f} %", f"{top1[1] - top1[0]:+.2f} points, {meaning} (p = {p:.2g})"
    )
    table.add_row("same class", "", f"{(before.predicted == after.predicted).mean():.2%}", "of the test images")
    size = [side.path.stat().st_size for side in (before, after)]
    table.add_row("file", f"{size[0] / 1e6:.2f} MB", f"{size[1] / 1e6:.2f} MB", f"{size[1] / size[0]:.0%} of it")
    middle = [float(np.median(side.timing.samples)) * 1e3 for side in (before, after)]
    ratio = latency.speedup(before.timing, after.timing)
    if ratio is None:
        raise RuntimeError(before.timing.failed or after.timing.failed)
    table.add_row(
        f"latency, batch {batch_size}",
        f"{middle[0]:.2f} ms",
        f"{middle[1]:.2f} ms",
        f"{ratio[0]:.2f}x [{ratio[1]:.2f}, {ratio[2]:.2f}] as fast",
    )
    return table
