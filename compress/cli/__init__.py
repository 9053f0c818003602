"""The command line: one file a verb. Heavy imports wait until a verb runs."""

from compress.cli.app import main

__all__ = ["main"]
