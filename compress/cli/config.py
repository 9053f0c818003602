"""`compress config`."""

from pathlib import Path
from typing import Annotated

import typer

from compress.cli.options import DataName, Seed


def config(
    file: Annotated[Path | None, typer.Argument(help="TOML file of settings (see --config).")] = None,
    data: DataName = None,
    seed: Seed = None,
) -> None:
    """Print all settings with defaults and descriptions, or those of a file with the origin of each value."""
    from compress import settings

    text = settings.describe_keys(data) if file is None else settings.describe_file(file, data, seed)
    print(text, end="")  # as it is, to be written into a file
