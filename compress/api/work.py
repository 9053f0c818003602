"""What every call from Python begins with: a folder, a checkpoint of the model, a data set of the images."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from baselines.data import Data
from baselines.errors import InputError
from compress import files
from compress.api import datasets, models
from compress.checkpoints import checkpoint


@dataclass(frozen=True)
class Work:
    """One call: where its files go, and what it is about."""

    folder: Path
    console: Console
    source: models.Source
    data: Data | None
    holds: tempfile.TemporaryDirectory[str] | None


def begin_work(
    model: Any, data: Any, test: Any, out: str | Path | None, size: int | tuple[int, int] | None, *, verbose: bool
) -> Work:
    """A checkpoint of the model and a data set of the images, in the folder of this call."""
    holds = None if out is not None else tempfile.TemporaryDirectory(prefix="compress-")
    folder = Path(out) if out is not None else Path(holds.name if holds else ".")
    files.writable_folder(folder)
    source = models.write_checkpoint(model, folder, size)
    taken = None
    if data is not None:
        content = checkpoint.load(source.path, source.hints)
        shape = (content.config.channels, *content.config.image_size)
        taken = datasets.make_data(data, test, shape, folder, content.resizing)
        taken = taken.with_classes(content.config.classes)
    elif test is not None:
        raise InputError("test images were given without data; give the images that set the ranges, too")
    console = Console(stderr=True, quiet=not verbose, soft_wrap=True, highlight=False, markup=False)
    return Work(folder, console, source, taken, holds)
