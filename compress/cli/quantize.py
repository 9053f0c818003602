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

    mode: Annotated[str | None, typer.Option(help="static, dynamic or qat; default: try static and dynamic.")] = None
    runtime: Annotated[
        str | None, typer.Option(help="Comma-separated engines to try; default: all with int8 kernels on this machine.")
    ] = None
    calibration_images: Annotated[int, typer.Option(min=1, help="Number of training images for calibration.")] = 256
    test_images: Annotated[int | None, typer.Option(min=1, help="Number of test images to evaluate; default: all.")] = (
        None
    )
    max_drop: Annotated[
        float | None, typer.Option(help="Maximum loss of top-1, in points; layers are kept in float as needed.")
    ] = None
    skip: Annotated[
        str | None,
        typer.Option(help="Comma-separated layers to keep in float, such as blocks.0.mlp.fc2 or fc2; * is a wildcard."),
    ] = None
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Only rank layers by the quantization error each adds.")
    ] = False
    calibration_study: Annotated[
        bool,
        typer.Option(
            "--calibration-study", help="Only show the effect of the number and choice of calibration images."
        ),
    ] = False
    epochs: Annotated[int, typer.Option(min=1, help="Training epochs (only with --mode qat).")] = 1
    batch_size: Annotated[int, typer.Option(min=1, help="Batch size used for timing.")] = 1
    seconds: Annotated[float, typer.Option(min=0.1, help="Maximum duration of a timing run.")] = 20
    exhaustive: Exhaustive = False
    fixed: Annotated[
        bool,
        typer.Option("--fixed-batch", help="Write a file for batch size --batch-size only; default: any batch size."),
    ] = False
    remeasure: Annotated[bool, typer.Option("--remeasure", hidden=True)] = False
    out: Annotated[Path | None, typer.Option("--out", help="Output folder; default: beside the checkpoint.")] = None
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
    """Quantize to int8: try every pipeline and keep the fastest that preserves accuracy."""
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
