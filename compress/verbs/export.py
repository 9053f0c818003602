"""`compress export CHECKPOINT`: a file for an engine, as safetensors, or for the library that it came from."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from baselines.classifier import Classifier
from baselines.data import Data
from baselines.errors import InputError
from baselines.vit import VisionTransformer
from compress import files, loading, runtimes, sidecar
from compress.checkpoints.checkpoint import Checkpoint
from compress.evaluate.options import describe_command
from compress.exporters import libraries
from compress.exporters.onnx import convert_for_onnx, export_onnx
from compress.importers import Hints
from compress.measure.environment import available_cpus
from compress.outcome import Outcome
from compress.runtimes.openvino_export import write_openvino
from compress.sidecar import Origin
from compress.training.data import PARITY_IMAGES, adapt_to_data, load_data, sample_parity_images
from compress.variant import Variant

ENGINES = {"onnx": ".onnx", "openvino": ".xml"}


def export(
    path: Path,
    to: str,
    data: str | Data | None,
    out: Path | None,
    batch_size: int | None,
    hints: Hints,
    console: Console,
    *,
    force: bool = False,
) -> Outcome:
    """Writes the file and says how it compares with the checkpoint; the outcome holds its path.

    Args:
        to: an engine, `safetensors`, or a library.
        data: images that an engine's file is checked on; None: those that the checkpoint names, or else noise.
        out: the file, or its folder; beside the checkpoint without.
        batch_size: of all batches that an engine's file takes; None: any.
        force: replace a file that is better, or of unknown origin.

    Raises:
        InputError: checkpoint, images or options cannot be used.
        ParityError: what was written would not compute what the checkpoint does.
    """
    torch.set_num_threads(available_cpus())
    size, kinds = 0, (*ENGINES, "safetensors", *libraries.list_families())
    if to not in kinds:
        raise InputError(f"--to {to!r} is not known; choose from {', '.join(kinds)}")
    if batch_size is not None and to not in ENGINES:
        raise InputError(f"--batch-size {batch_size} is for engines; leave it out with --to {to}")
    options = {"to": to, "data": data, "batch_size": batch_size}
    origin = Origin(source=path, command=describe_command(sys.argv), options=options, force=force)
    if to in (*ENGINES, "safetensors"):
        suffix = ENGINES.get(to, ".safetensors")
        target = libraries.choose_target(path, to, out, suffix, (suffix,))
        sidecar.check_target(target, origin)
        with files.temporary_folder() as folder:
            made = folder / target.name
            if to in ENGINES:
                whole = loading.restore(path, hints)
                facts, said = _write_for_engine(path, *whole, made, data, batch_size, hints, console)
            else:
                libraries.write_safetensors(made, loading.restore(path, hints)[2])
                facts, said = {}, "compress takes it wherever it takes a checkpoint"
            parts = {target.with_name(each.name): each.read_bytes() for each in reversed(runtimes.list_files(made))}
            sidecar.write_files(parts, target, origin)
    else:
        keep = partial(sidecar.write_files, origin=origin)
        written = libraries.write_for_library(path, *loading.restore_vit(path, hints), to, out, keep)
        target, size = written.path, written.file_bytes
        facts = {"largest_difference": written.difference, "usage": written.usage}
        said = (
            f"read back, its logits differ by {written.difference:.1g} of the largest; to load it:\n\n{written.usage}"
        )
    size = size or runtimes.count_bytes(target)
    console.print(f"wrote {target} ({size / 1e6:.2f} MB); {said}")
    return Outcome(written=[target], facts={"to": to, "file_bytes": size, **facts})


def _write_for_engine(
    path: Path,
    model: Classifier,
    which: Variant,
    content: Checkpoint,
    target: Path,
    data: str | Data | None,
    batch_size: int | None,
    hints: Hints,
    console: Console,
) -> tuple[dict[str, Any], str]:
    """Writes an ONNX file, or OpenVINO's; how it compares with the checkpoint, as figures and in words."""
    if which.dtype == "int8" and not isinstance(model, VisionTransformer):
        raise InputError(f"{path} becomes integers on images: compress quantize writes the file of {which.name}")
    openvino = target.suffix == ENGINES["openvino"]
    if openvino:
        runtimes.get("openvino")  # whether it is installed is better known before the work begins
    config, name = content.config, data or content.dataset
    if name:
        whole = load_data(name, config.image_size, config.channels, path.parent, None, console.print, content.resizing)
        content, adapted = adapt_to_data(path, model, content, whole, hints, console.print)
        images = sample_parity_images(adapted)
    else:
        if content.choice:
            console.print(f"{path}: {content.choice}")
        content = replace(content, classes=content.classes or tuple(map(str, range(config.classes))))
        noise = torch.Generator().manual_seed(0)
        images = torch.randn(PARITY_IMAGES, config.channels, *config.image_size, generator=noise)
        console.print(f"{path} names no images: the file is checked on noise; --data gives it images of yours")
        if not content.mean:
            console.print("nor does it say how images are normalized, and so neither will the file: --normalize")
    model = convert_for_onnx(model, which, content)
    if openvino:
        parity = write_openvino(model, target, images, content, available_cpus(), batch_size)
    else:
        parity = export_onnx(model, target, images, content, batch_size)
    batches = "1, 2 and 7" if batch_size is None else f"{batch_size}, which it takes alone"
    facts = {
        "images": parity.n_images,
        "agreement": parity.agreement,
        "largest_difference": parity.max_difference,
        "batch_size": batch_size,
    }
    return facts, (
        f"against {path.name} on {parity.n_images} images in batches of {batches}: same class on "
        f"{parity.agreement:.1%}, largest difference {parity.max_difference:.2g} of the largest logit"
    )
