"""`compress quantize`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from compress.cli import terminal
from compress.cli.groups import DataOptions, MachineOptions, SourceOptions, with_groups
from compress.cli.json_output import with_json
from compress.cli.options import CheckpointFile, DryRun, Exhaustive, Force, Resume
from compress.outcome import NOTHING_YET, Outcome


@dataclass(frozen=True)
class QuantizeOptions:
    """Which files are made, and how they are measured."""

    mode: Annotated[
        str | None, typer.Option(help="static, dynamic or qat; default: static and dynamic, both measured.")
    ] = None
    runtime: Annotated[
        str | None, typer.Option(help="Engines to try, with commas; default: all that multiply integers here.")
    ] = None
    calibration_images: Annotated[int, typer.Option(min=1, help="Training images that set the ranges.")] = 256
    test_images: Annotated[int | None, typer.Option(min=1, help="That are scored; default: all.")] = None
    max_drop: Annotated[
        float | None, typer.Option(help="Points of top-1 that may be lost; as many layers stay float as it takes.")
    ] = None
    skip: Annotated[
        str | None, typer.Option(help="Layers that stay float, with commas: blocks.0.mlp.fc2, or fc2; * fits anything.")
    ] = None
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Only rank the layers by the error that each adds.")
    ] = False
    calibration_study: Annotated[
        bool, typer.Option("--calibration-study", help="Only show what number and choice of images change.")
    ] = False
    epochs: Annotated[int, typer.Option(min=1, help="Of --mode qat.")] = 1
    batch_size: Annotated[int, typer.Option(min=1, help="Batch size that is timed.")] = 1
    seconds: Annotated[float, typer.Option(min=0.1, help="Longest latency measurement.")] = 20
    exhaustive: Exhaustive = False
    fixed: Annotated[
        bool, typer.Option("--fixed-batch", help="Write the file for --batch-size alone; default: any batch size.")
    ] = False
    remeasure: Annotated[bool, typer.Option("--remeasure", hidden=True)] = False
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the file and the rows; default: beside the checkpoint.")
    ] = None
    resume: Resume = True
    force: Force = False
    dry_run: DryRun = False


@with_json
@with_groups
def quantize(
    checkpoint: CheckpointFile,
    data: DataOptions,
    machine: MachineOptions,
    source: SourceOptions,
    asked: QuantizeOptions,
) -> Outcome:
    """Make the fastest integer file of a model, and compare all ways to one: accuracy, size, latency."""
    terminal.remains = NOTHING_YET  # until the verb says more
    from compress.verbs.quantize import Request
    from compress.verbs.quantize import quantize as quantize_

    options: dict[str, Any] = vars(asked) | {
        "skip": terminal.split_names(asked.skip),
        "runtimes": terminal.split_names(asked.runtime),
    }
    options["exhaustive"] = options.pop("remeasure") or asked.exhaustive
    del options["runtime"]
    request = Request(
        path=checkpoint,
        **vars(data),
        **options,
        threads=machine.processors,
        device=terminal.choose_device(machine.device),
        hints=source.hints,
    )
    return quantize_(request, terminal.make_console())
