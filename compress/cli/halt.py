"""`compress halt`."""

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
from compress.cli.prune import BatchSize, Epochs, Folder, TargetMacs


def halt(
    checkpoint: CheckpointFile,
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
    """Let every token of a trained model stop when it has seen enough (A-ViT), with or without training."""
    processes.check_alone("compress halt")
    from compress.measure.environment import available_cpus
    from compress.verbs.prune import Request, prune

    request = Request(
        path=checkpoint,
        verb="halt",
        method="avit",
        amounts={"target_macs": target_macs},
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
    prune(request, terminal.make_console())
