"""`compress train`."""

from pathlib import Path
from typing import Annotated

import typer

from compress.cli import processes, terminal
from compress.cli.options import (
    Config,
    DataName,
    Device,
    Ema,
    Heads,
    ImageSize,
    Out,
    Resume,
    Seed,
    TensorBoard,
    Threads,
    hints,
)


def train(
    config: Config = None,
    data: DataName = None,
    device: Device = "auto",
    variant: Annotated[str, typer.Option(help="What to train; its baseline is trained first.")] = "vit",
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint that the baseline's training begins with: a baseline or pretrained.")
    ] = None,
    threads: Threads = None,
    seed: Seed = None,
    out: Out = Path("runs"),
    resume: Resume = True,
    tensorboard: TensorBoard = False,
    heads: Heads = None,
    image_size: ImageSize = None,
    ema: Ema = True,
) -> None:
    """Train the baseline, or a variant of it; goes on where it was interrupted."""
    processes.quieten()
    from compress import config as config_
    from compress import variant as variants
    from compress.training.workshop import Workshop

    console, known = terminal.make_console(), hints(heads, image_size, ema=ema)
    settings = config_.read(config, data, seed, init, known)
    wanted = variants.parse(variant, settings.methods)
    anew = None if resume else wanted
    with processes.training(device, out, threads) as team:
        workshop = Workshop(
            settings,
            out,
            team.device,
            console.print,
            tensorboard=tensorboard,
            anew=anew,
            world=team.world,
            hints=known,
        )
        team.kept = workshop.kept
        console.print(f"{wanted.name}: {workshop.make(wanted).path}")
