"""`compress pretrain`."""

from pathlib import Path
from typing import Annotated

import typer

from compress.cli import processes, terminal
from compress.cli.options import Config, DataName, Device, Out, Resume, Seed, TensorBoard, Threads


def pretrain(
    config: Config = None,
    data: DataName = None,
    device: Device = "auto",
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of those in the table pretrain.")] = None,
    threads: Threads = None,
    seed: Seed = None,
    out: Out = Path("runs"),
    resume: Resume = True,
    tensorboard: TensorBoard = False,
) -> None:
    """Train the baseline on images without labels, as a start for compress train --init."""
    processes.quieten()
    from compress import config as config_
    from compress.training.pretraining import FILE, Pretraining
    from compress.variant import Variant

    console = terminal.make_console()
    settings = config_.read(config, data, seed)
    if epochs is not None:
        length = settings.pretrain.model_copy(update={"epochs": epochs, "steps": 0})
        settings = settings.model_copy(update={"pretrain": length})
    anew = None if resume else Variant(())
    with processes.training(device, out, threads) as team:
        workshop = Pretraining(
            settings, out, team.device, console.print, tensorboard=tensorboard, anew=anew, world=team.world
        )
        team.kept = workshop.kept
        workshop.baseline()
        console.print(f"pretrained: {out / FILE}; train it with: compress train --init {out / FILE}")
