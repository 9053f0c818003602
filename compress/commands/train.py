"""`compress train`."""

from pathlib import Path
from typing import Annotated

import typer

from compress import terminal
from compress.commands.options import Config, DataName, Out, Seed, Threads


def train(
    config: Config = None,
    data: DataName = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    variant: Annotated[str, typer.Option(help="What to train; its baseline is trained first.")] = "vit",
    threads: Threads = None,
    seed: Seed = None,
    out: Out = Path("runs"),
) -> None:
    """Train the baseline, or a variant of it; goes on where it was interrupted."""
    import torch

    from baselines import device as devices
    from compress import config as config_
    from compress import files
    from compress import variant as variants
    from compress.measure.environment import available_cpus, settle_allocator
    from compress.workshop import Workshop

    console = terminal.make_console()
    settings = config_.read(config, data, seed)
    wanted = variants.parse(variant, settings.methods)
    chosen = devices.resolve(device)
    files.writable_folder(out)
    torch.set_num_threads(threads or available_cpus())
    settle_allocator()
    workshop = Workshop(settings, out, chosen, console.print)
    console.print(f"{wanted.name}: {workshop.make(wanted).path}")
