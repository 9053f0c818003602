"""`compress predict`."""

from pathlib import Path
from typing import Annotated

import typer

from compress.cli import terminal
from compress.cli.options import PANEL, Device, Ema, Heads, ImageSize, Model, Threads, hints


def predict(
    model: Annotated[
        Path, typer.Argument(help="An .onnx file, an OpenVINO .xml file, or a checkpoint: a file or folder.")
    ],
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files. Each is resized to the size that the model takes, bilinear, the whole image whatever "
            "its shape, as in training and measuring."
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Classes shown of each image.")] = 5,
    runtime: Annotated[
        str,
        typer.Option(help="torch, torch.compile, onnxruntime, openvino, nncf, or auto: the one the file is made for."),
    ] = "auto",
    device: Device = "auto",
    threads: Threads = None,
    code: Model = None,
    heads: Heads = None,
    image_size: ImageSize = None,
    normalise: Annotated[
        str | None,
        typer.Option(
            help="imagenet, half, clip, none, or means/deviations as in 0.5,0.5,0.5/0.25,0.25,0.25.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    ema: Ema = True,
) -> None:
    """Say what is on images: the likeliest classes, by any model file of compress in the engine it is made for."""
    from compress.measure.environment import available_cpus
    from compress.verbs.predict import Request
    from compress.verbs.predict import predict as predict_

    request = Request(
        model=model,
        images=tuple(images),
        top=top,
        runtime=runtime,
        device=device,
        threads=threads or available_cpus(),
        hints=hints(heads, image_size, normalise, ema, code),
    )
    predict_(request, terminal.make_console())
