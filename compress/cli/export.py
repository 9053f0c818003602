"""`compress export`."""

from pathlib import Path
from typing import Annotated

import typer

from compress.cli import terminal
from compress.cli.groups import SourceOptions, with_groups
from compress.cli.json_output import with_json
from compress.cli.options import CheckpointFile, Force
from compress.outcome import Outcome


@with_json
@with_groups
def export(
    checkpoint: CheckpointFile,
    source: SourceOptions,
    to: Annotated[
        str, typer.Option(help="onnx, openvino, safetensors (of compress), timm, torchvision or huggingface.")
    ] = "onnx",
    data: Annotated[
        str | None,
        typer.Option(help="Images to verify onnx and openvino files with, named as in bench --data."),
    ] = None,
    batch_size: Annotated[
        str, typer.Option(help="Batch size of onnx and openvino files: dynamic, or a fixed number.")
    ] = "dynamic",
    out: Annotated[Path | None, typer.Option(help="Output file or folder; default: beside the checkpoint.")] = None,
    force: Force = False,
) -> Outcome:
    """Write a checkpoint for an engine, as safetensors, or back for the library it came from.

    For an engine it is checked against the checkpoint on real images, for a library it is read back and run.
    """
    from compress.verbs.export import export as export_

    size = None if batch_size == "dynamic" else terminal.numbers(batch_size, "--batch-size")[0]
    return export_(checkpoint, to, data, out, size, source.hints, terminal.make_console(), force=force)
