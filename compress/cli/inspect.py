"""`compress inspect`."""

from compress.cli import terminal
from compress.cli.groups import FileOptions, with_groups
from compress.cli.options import CheckpointFile


@with_groups
def inspect(checkpoint: CheckpointFile, source: FileOptions) -> None:
    """Say what a checkpoint is: whose, its geometry, its cost, and what it does not say itself."""
    from compress.verbs.inspect import describe

    describe(checkpoint, source.hints, terminal.make_console())
