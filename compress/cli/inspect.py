"""`compress inspect`."""

from compress.cli import terminal
from compress.cli.groups import FileOptions, with_groups
from compress.cli.json_output import with_json
from compress.cli.options import CheckpointFile
from compress.outcome import Outcome


@with_json
@with_groups
def inspect(checkpoint: CheckpointFile, source: FileOptions) -> Outcome:
    """Say what a checkpoint is: whose, its geometry, its cost, and what it does not say itself."""
    from compress.verbs.inspect import describe

    return describe(checkpoint, source.hints, terminal.make_console())
