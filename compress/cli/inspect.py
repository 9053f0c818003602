"""`compress inspect`."""

from compress.cli import terminal
from compress.cli.options import CheckpointFile, Ema, Heads, ImageSize, hints


def inspect(checkpoint: CheckpointFile, heads: Heads = None, image_size: ImageSize = None, ema: Ema = True) -> None:
    """Say what a checkpoint is: whose, its geometry, its cost, and what it does not say itself."""
    from compress.verbs.inspect import describe

    describe(checkpoint, hints(heads, image_size, ema=ema), terminal.make_console())
