"""`compress inspect`."""

from compress.cli import terminal
from compress.cli.groups import SourceOptions, with_groups
from compress.cli.json_output import with_json
from compress.cli.options import CheckpointFile
from compress.outcome import Outcome


@with_json
@with_groups
def inspect(checkpoint: CheckpointFile, source: SourceOptions) -> Outcome:
    """Show a checkpoint's source library, architecture, cost, missing metadata and next steps."""
    from compress.verbs.inspect import describe

    return describe(checkpoint, source.hints, terminal.make_console())
