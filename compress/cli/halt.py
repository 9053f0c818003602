"""`compress halt`."""

from compress.cli.groups import DataOptions, MachineOptions, ViTOptions, with_groups
from compress.cli.json_output import with_json
from compress.cli.options import CheckpointFile
from compress.cli.prune import DEFAULTS, ReductionOptions, TargetMacs, reduce_tokens
from compress.outcome import Outcome


@with_json
@with_groups
def halt(
    checkpoint: CheckpointFile,
    data: DataOptions,
    machine: MachineOptions,
    source: ViTOptions,
    target_macs: TargetMacs = None,
    asked: ReductionOptions = DEFAULTS,
) -> Outcome:
    """Add adaptive token halting (A-ViT) to a trained model, with or without fine-tuning."""
    return reduce_tokens("halt", checkpoint, "avit", {"target_macs": target_macs}, data, machine, source, asked)
