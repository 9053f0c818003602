"""`compress export`."""

from pathlib import Path
from typing import Annotated

import typer

from compress import terminal
from compress.commands.options import CheckpointFile, DataName


def export(
    checkpoint: CheckpointFile,
    data: DataName = None,
    out: Annotated[Path | None, typer.Option(help="The ONNX file; default: beside the checkpoint.")] = None,
) -> None:
    """Write a checkpoint as ONNX, checked against it on real images."""
    from compress import files, variant
    from compress.export import export_onnx, shipped
    from compress.images import check_classes, load_data, parity_images

    model, which, content = variant.restore(checkpoint)
    model = shipped(model, which, content)
    images = load_data(data or content.dataset, content.config.image_size, content.config.channels, checkpoint.parent)
    check_classes(checkpoint, content.classes, images)
    target = out or checkpoint.with_suffix(".onnx")
    parity = export_onnx(model, target, parity_images(images.normalised(content.mean, content.std)), content)
    terminal.make_console().print(
        f"wrote {target} ({files.size(target) / 1e6:.2f} MB); against {checkpoint.name} on {parity.n_images} images "
        f"in batches of 1, 2 and 7: same class on {parity.agreement:.1%}, "
        f"largest difference {parity.max_difference:.2g} of the largest logit"
    )
