"""`compress quantize`."""

from typing import Annotated

import typer

from compress import terminal
from compress.commands.options import CheckpointFile, DataName, Threads


def quantize(
    checkpoint: CheckpointFile,
    data: DataName = None,
    calibration_images: Annotated[int, typer.Option(min=1, help="Training images that set the ranges.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Of the latency shown.")] = 1,
    threads: Threads = None,
) -> None:
    """Write the int8 model beside a checkpoint and compare both: accuracy, size, latency."""
    from compress.measure.environment import available_cpus
    from compress.quantize import quantize as quantize_

    quantize_(
        checkpoint,
        data_name=data,
        calibration_images=calibration_images,
        batch_size=batch_size,
        threads=threads or available_cpus(),
        console=terminal.make_console(),
    )
