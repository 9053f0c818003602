"""Data sets of Hugging Face's `datasets` on this machine: in its cache, of parquet files, or of `save_to_disk`.

    hf:NAME   hf:OWNER/NAME   hf:NAME:CONFIGURATION      as `load_dataset` names it; nothing is fetched
    hf:FOLDER                                            of parquet files, which are copied into the cache once

Images keep the bytes that were stored, and are read as files are (`images.py`). Labels are a `ClassLabel`, or numbers.
"""

import contextlib
import importlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from baselines.errors import InputError
from baselines.folders import Files, tell_role
from baselines.listing import Chosen

PREFIX = "hf:"
SAVED = (("dataset_dict.json",), ("dataset_info.json", "state.json"))  # in a folder of several splits, of one
LABELS = ("label", "labels", "fine_label")  # columns, the preferred first
PACKAGE = "datasets"


@dataclass(frozen=True)
class StoredImage:
    """One image of a table, which is read when it is opened."""

    table: Any  # a `datasets.Dataset` of one column, whose images are not decoded
    name: str  # of the data set and its split
    index: int

    def __str__(self) -> str:
        return f"image {self.index} of {self.name}"

    def open(self) -> IO[bytes]:
        (stored,) = self.table[self.index].values()
        held = (stored or {}).get("bytes")
        return io.BytesIO(held) if held is not None else Path((stored or {})["path"]).open("rb")

    @property
    def facts(self) -> tuple[str, int]:
        """Change when the image does."""
        return self.table._fingerprint, self.index


@dataclass(frozen=True)
class StoredImages(Sequence[StoredImage]):
    """All images of a table."""

    table: Any
    name: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Chosen(self, np.arange(len(self))[index])
        return StoredImage(self.table, self.name, range(len(self))[index])


@dataclass(frozen=True)
class Tables:
    """The splits of a data set; without a test split, one split alone."""

    train: Files
    test: Files | None
    notes: tuple[str, ...]


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return any(all((folder / name).is_file() for name in names) for names in SAVED)


def read_tables(name: str, folder: Path | None = None) -> Tables:
    """A data set by its name behind `hf:`, or of a folder; what `--data` names it is `name`.

    Raises:
        InputError: the package is not installed, the set is not on this machine, or has no images with labels.
    """
    try:
        datasets: Any = importlib.import_module(PACKAGE)
    except ImportError as error:
        raise InputError(
            f"--data {name} needs the package {PACKAGE}; install it with: pip install {PACKAGE}"
        ) from error
    path, _, configuration = name.removeprefix(PREFIX).partition(":")
    if folder is None and path and (given := Path(path).expanduser()).is_dir():
        folder, path = given, str(given)
    try:
        if folder is not None and is_saved(folder):
            loaded = datasets.load_from_disk(str(folder))
        else:
            with _stay_offline(datasets):
                loaded = datasets.load_dataset(path, configuration or None)
    except Exception as error:  # of many kinds, what is not there or not whole
        said = (str(error) or type(error).__name__).splitlines()[0]
        where = f"{folder} cannot be read" if folder else "is not on this machine"
        fetch = f'python -c "import datasets; datasets.load_dataset({path!r})" fetches it'
        remedy = "save it again, or give a folder of parquet files" if folder else fetch
        raise InputError(f"--data {name}: {where} ({said:.200}); {remedy}") from error
    splits = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    return _choose_splits(name, splits)


def _choose_splits(name: str, splits: dict[str, Any]) -> Tables:
    """Training and test images, as folders of splits are chosen; a test split without labels is none."""
    roles = {tell_role(each): each for each in reversed(splits)}
    train = roles.get("train")
    if train is None and len(splits) > 1:
        raise InputError(
            f"--data {name} has the splits {', '.join(splits)}, none of which is called train; save one so"
        )
    train = train or next(iter(splits))
    first, notes = _read_split(name, splits[train], train), []
    for role in ("test", "validation"):
        if (other := roles.get(role)) is None:
            continue
        held_out = _read_split(name, splits[other], other)
        if (held_out.labels < 0).any():
            notes.append(f"{other} has no labels and is not used")
            continue
        if held_out.classes != first.classes:
            raise InputError(f"--data {name}: {train} and {other} have different classes; save them with the same")
        notes.append(f"{train} holds the training images, {other} the test images")
        return Tables(first, held_out, tuple(notes))
    return Tables(first, None, (*notes, "without a split that is called test: a fixed fifth of each class is"))


def _read_split(name: str, table: Any, split: str) -> Files:
    datasets: Any = importlib.import_module(PACKAGE)
    image = next((column for column, kind in table.features.items() if _holds_images(kind, datasets)), None)
    named = [column for column, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)]
    found = [column for column in LABELS if column in table.features] or named
    if image is None or not found:
        raise InputError(
            f"--data {name}: {split} has the columns {', '.join(table.column_names)}; an Image and a ClassLabel are "
            "needed: cast them with cast_column"
        )
    label = found[0]
    values = table[label][:]
    if not all(isinstance(value, int) for value in values):
        raise InputError(f"--data {name}: {label} holds no numbers of classes; see class_encode_column of {PACKAGE}")
    names = getattr(table.features[label], "names", None) or map(str, range(max(values, default=-1) + 1))
    pictures = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    return Files(tuple(names), StoredImages(pictures, f"{name} ({split})"), torch.tensor(values, dtype=torch.long))


def _holds_images(kind: Any, datasets: Any) -> bool:
    """Whether a column is of type `Image`, or as such a column looks in parquet files that others wrote."""
    return isinstance(kind, datasets.Image) or (isinstance(kind, dict) and {*kind} == {"bytes", "path"})


@contextlib.contextmanager
def _stay_offline(datasets: Any) -> Iterator[None]:
    """What is not in the cache is not fetched, whatever the environment says."""
    from huggingface_hub import constants

    places = [(datasets.config, "HF_HUB_OFFLINE"), (constants, "HF_HUB_OFFLINE")]
    before = [getattr(place, name) for place, name in places]
    try:
        for place, name in places:
            setattr(place, name, True)
        yield
    finally:
        for (place, name), value in zip(places, before, strict=True):
            setattr(place, name, value)
