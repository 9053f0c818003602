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
        Path, typer.Argument(help="An .onnx file, an OpenVINO .xml file or a checkpoint (file or folder).")
    ],
    images: Annotated[
        list[Path],
        typer.Argument(help="Image files; resized and normalized as for the training of the model."),
    ],
    machine: MachineOptions,
    source: SourceOptions,
    top: Annotated[int, typer.Option(min=1, help="Number of classes to show per image.")] = 5,
    runtime: Annotated[
        str,
        typer.Option(
            help="torch, torch.compile, onnxruntime, openvino, nncf, or auto (the one the file was selected for)."
        ),
    ] = "auto",
) -> Outcome:
    """Classify images with any model file, in the engine it was selected for."""
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
