"""`compress export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compress.cli import terminal
from compress.cli.options import CheckpointFile, Ema, Heads, ImageSize, Model, Normalise, hints

if TYPE_CHECKING:
    from baselines.classifier import Classifier
    from compress.checkpoints.checkpoint import Checkpoint
    from compress.importers import Hints
    from compress.variant import Variant

ENGINES = {"onnx": ".onnx", "openvino": ".xml"}


def export(
    checkpoint: CheckpointFile,
    to: Annotated[
        str, typer.Option(help="onnx, openvino, safetensors (ours), or a library: timm, torchvision, huggingface.")
    ] = "onnx",
    data: Annotated[
        str | None,
        typer.Option(help="Images for the check of onnx and openvino: digits, cifar10, cifar100 or folder:PATH."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file, or the folder; default: beside the checkpoint.")] = None,
    model: Model = None,
    heads: Heads = None,
    image_size: ImageSize = None,
    normalise: Normalise = None,
    ema: Ema = True,
) -> None:
    """Write a checkpoint for an engine, as safetensors, or back for the library it came from.

    For an engine it is checked against the checkpoint on real images, for a library it is read back and run.
    """
    from baselines.errors import InputError
    from compress import files, loading
    from compress.export import libraries as returning

    known = hints(heads, image_size, normalise, ema, model)
    size, kinds = 0, (*ENGINES, "safetensors", *returning.families())
    if to not in kinds:
        raise InputError(f"--to {to!r} is not known; choose from {', '.join(kinds)}")
    if to in ENGINES:
        restored = loading.restore(checkpoint, known)
        target = returning.place(checkpoint, to, out, ENGINES[to], (ENGINES[to],))
        said = _for_an_engine(checkpoint, *restored, target, data, known)
    elif to == "safetensors":
        content = loading.restore(checkpoint, known)[2]
        target = returning.place(checkpoint, to, out, ".safetensors", (".safetensors",))
        returning.write_safetensors(target, content)
        said = "compress takes it wherever it takes a checkpoint"
    else:
        made = returning.give_back(checkpoint, *loading.restore_vit(checkpoint, known), to, out)
        target, size = made.path, made.file_bytes
        said = f"read back, its logits differ by {made.difference:.1g} of the largest; to load it:\n\n{made.usage}"
    size = size or files.size(target)
    terminal.make_console().print(f"wrote {target} ({size / 1e6:.2f} MB); {said}")


def _for_an_engine(
    path: Path,
    model: "Classifier",
    which: "Variant",
    content: "Checkpoint",
    target: Path,
    data: str | None,
    known: "Hints",
) -> str:
    """Writes an ONNX file, or OpenVINO's; how it compares with the checkpoint."""
    from baselines.errors import InputError
    from baselines.vit import VisionTransformer
    from compress.export.onnx import export_onnx, shipped
    from compress.measure.environment import available_cpus
    from compress.runtimes.openvino_file import check_installed, write_openvino
    from compress.training.data import load_data, parity_images, settle

    if which.numbers == "int8" and not isinstance(model, VisionTransformer):
        raise InputError(f"{path} becomes integers on images: compress quantize writes the file of {which.name}")
    openvino = target.suffix == ENGINES["openvino"]
    if openvino:
        check_installed()
    name = data or content.dataset
    if not name:
        raise InputError(f"{path} does not say which images it knows; give some with --data folder:PATH")
    whole = load_data(name, content.config.image_size, content.config.channels, path.parent)
    say = terminal.make_console().print
    content, settled = settle(path, model, content, whole, known, say)
    model, images = shipped(model, which, content), parity_images(settled)
    if openvino:
        parity = write_openvino(model, target, images, content, available_cpus())
    else:
        parity = export_onnx(model, target, images, content)
    return (
        f"against {path.name} on {parity.n_images} images in batches of 1, 2 and 7: same class on "
        f"{parity.agreement:.1%}, largest difference {parity.max_difference:.2g} of the largest logit"
    )
