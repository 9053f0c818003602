"""`compress doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from compress.cli import terminal
from compress.cli.json_output import with_json
from compress.cli.options import Threads
from compress.outcome import Outcome


@with_json
def doctor(
    artifact: Annotated[Path | None, typer.Argument(help="An .onnx file or a checkpoint to examine.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Batch size used for timing.")] = 1,
    threads: Threads = None,
    out: Annotated[Path | None, typer.Option(help="Output directory for the measured rows.")] = None,
) -> Outcome:
    """Check hardware and engines, or find what limits the speed of a file."""
    from compress.doctor.overview import doctor as doctor_

    return doctor_(artifact, threads, terminal.make_console(), batch_size, out)
