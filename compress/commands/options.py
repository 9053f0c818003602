"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path | None, typer.Option("--config", help="TOML file of settings; see configs/.")]
DataName = Annotated[str | None, typer.Option("--data", help="digits, cifar10, cifar100 or folder:PATH.")]
Out = Annotated[Path, typer.Option("--out", help="Run directory: models, artifacts, rows, report.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Default: all processors of this process.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Of training; default 0.")]
CheckpointFile = Annotated[Path, typer.Argument(help="A checkpoint, such as best_vit_model.pth.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or auto.")]
Resume = Annotated[
    bool,
    typer.Option("--resume/--no-resume", help="Go on where it was interrupted, or discard what there is of it."),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write each epoch as TensorBoard reads it: OUT/tensorboard.")
]
