"""`compress predict`."""

from pathlib import Path
from typing import Annotated

import typer

from compress.cli import terminal
from compress.cli.groups import MachineOptions, SourceOptions, with_groups
from compress.cli.json_output import with_json
from compress.outcome import Outcome


@with_json
@with_groups
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
    machine: MachineOptions,
    source: SourceOptions,
    top: Annotated[int, typer.Option(min=1, help="Classes shown of each image.")] = 5,
    runtime: Annotated[
        str,
        typer.Option(help="torch, torch.compile, onnxruntime, openvino, nncf, or auto: the one the file is made for."),
    ] = "auto",
) -> Outcome:
    """Say what is on images: the likeliest classes, by any model file of compress in the engine it is made for."""
    from compress.verbs.predict import Request
    from compress.verbs.predict import predict as predict_

    request = Request(
        model=model,
        images=tuple(images),
        top=top,
        runtime=runtime,
        device=machine.device,
        threads=machine.processors,
        hints=source.hints,
    )
    return predict_(request, terminal.make_console())
