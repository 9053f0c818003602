"""`compress halt`."""

from compress.cli.groups import DataOptions, MachineOptions, ViTOptions, with_groups
from compress.cli.json_output import with_json
from compress.cli.options import CheckpointFile, Resume
from compress.cli.prune import BatchSize, Epochs, Folder, Seconds, TargetMacs, reduce_tokens
from compress.outcome import Outcome


@with_json
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
) -> Outcome:
    """Let every token of a trained model stop when it has seen enough (A-ViT), with or without training."""
    amounts = {"target_macs": target_macs}
    return reduce_tokens(
        "halt", checkpoint, "avit", amounts, data, machine, source, epochs, batch_size, seconds, out, resume
    )
