"""`compress prune`."""

from pathlib import Path
from typing import Annotated

import typer

from compress.cli import processes, terminal
from compress.cli.options import (
    CheckpointFile,
    Config,
    DataName,
    Device,
    Ema,
    Heads,
    ImageSize,
    Normalise,
    Resume,
    Seed,
    Threads,
    hints,
)

Epochs = Annotated[int, typer.Option(min=0, help="Of fine-tuning, with the checkpoint as teacher; 0: none.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Of the latency shown.")]
Folder = Annotated[
    Path | None, typer.Option("--out", help="Folder of what is written; default: beside the checkpoint.")
]
TargetMacs = Annotated[
    str | None, typer.Option(help="Share of the dense model's MACs; several with commas give a curve.")
]


def prune(
    checkpoint: CheckpointFile,
    method: Annotated[str, typer.Option(help="topk, tome or dynamicvit.")] = "topk",
    keep: Annotated[
        str | None,
        typer.Option(help="Share of the patches that stay at each place (topk, dynamicvit); several give a curve."),
    ] = None,
    r: Annotated[
        str | None, typer.Option("--r", help="Tokens that merge in every block (tome); several give a curve.")
    ] = None,
    target_macs: TargetMacs = None,
    epochs: Epochs = 0,
    config: Config = None,
    data: DataName = None,
    device: Device = "auto",
    batch_size: BatchSize = 1,
    threads: Threads = None,
    seed: Seed = None,
    out: Folder = None,
    resume: Resume = True,
    heads: Heads = None,
    image_size: ImageSize = None,
    normalise: Normalise = None,
    ema: Ema = True,
) -> None:
    """Take tokens out of a trained model, with or without training, and show what it costs and saves."""
    processes.check_alone("compress prune")
    from compress.measure.environment import available_cpus
    from compress.verbs.prune import Request
    from compress.verbs.prune import prune as prune_

    request = Request(
        path=checkpoint,
        verb="prune",
        method=method,
        amounts={"keep": keep, "r": r, "target_macs": target_macs},
        epochs=epochs,
        config=config,
        data=data,
        device=device,
        batch_size=batch_size,
        threads=threads or available_cpus(),
        seed=seed,
        out=out,
        resume=resume,
        hints=hints(heads, image_size, normalise, ema),
    )
    prune_(request, terminal.make_console())
