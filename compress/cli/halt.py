"""`compress halt`."""

from compress.cli.groups import DataOptions, MachineOptions, ViTOptions, with_groups
from compress.cli.options import CheckpointFile, Resume
from compress.cli.prune import BatchSize, Epochs, Folder, Seconds, TargetMacs, reduce_tokens


@with_groups
def halt(
    checkpoint: CheckpointFile,
    data: DataOptions,
    machine: MachineOptions,
    source: ViTOptions,
    target_macs: TargetMacs = None,
    epochs: Epochs = 0,
    batch_size: BatchSize = 1,
    seconds: Seconds = 5,
    out: Folder = None,
    resume: Resume = True,
) -> None:
    """Let every token of a trained model stop when it has seen enough (A-ViT), with or without training."""
    amounts = {"target_macs": target_macs}
    reduce_tokens("halt", checkpoint, "avit", amounts, data, machine, source, epochs, batch_size, seconds, out, resume)
