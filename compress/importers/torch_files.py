"""Files that torch wrote: the zip archives of version 1.6 and later, and the row of pickles before.

Every file is looked through first (`intact.py`, `pickles.py`): nothing is loaded unless its pickles make plain trees of
plain tensors, and these lie in bytes that are there. Then torch reads it, with `weights_only=True`.
"""

import argparse
import io
import os
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from baselines.errors import InputError
from compress.importers.claims import Storage
from compress.importers.intact import AGAIN, ZIP, Entry, check_archive, damaged, first_bytes
from compress.importers.pickles import LONGEST, Bounded, Walk

PICKLE = b"\x80"
LEGACY = torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION


def torch_file(path: Path) -> Any:
    """What torch saved: a dictionary of tensors and plain values.

    Raises:
        InputError: missing, damaged, or holding more than weights.
    """
    start = first_bytes(path)
    if start.startswith(ZIP):
        _check_zip(path)
    elif start.startswith(PICKLE):
        _check_pickles(path)
    else:
        raise InputError(f"{path} is not a checkpoint, or is damaged; {AGAIN}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how old a file is: it is read all the same
            return torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(ZIP))
    except Exception as error:  # torch raises many kinds for damaged files
        raise damaged(path) from error


def _check_zip(path: Path) -> None:
    """Raises InputError unless the file is an archive of torch whose tensors lie in its entries."""
    entries = check_archive(path, stored=True)
    folder = next(iter(entries), "").partition("/")[0]
    pickle = entries.get(f"{folder}/data.pkl")
    if pickle is None or not all(name.startswith(f"{folder}/") for name in entries):
        raise InputError(f"{path} is not a checkpoint, or is damaged; {AGAIN}")
    if pickle.size > LONGEST:
        raise InputError(f"{path} holds more than weights: a pickle of {pickle.size:,} bytes; save its weights alone")
    with path.open("rb") as file:
        file.seek(pickle.offset)
        content = io.BytesIO(file.read(pickle.size))
    Walk(path, Stored(entries, folder)).result(content)


class Stored:
    """The storages of an archive: one entry each."""

    def __init__(self, entries: Mapping[str, Entry], folder: str):
        self.entries, self.folder = entries, folder
        self.known: dict[str, Storage] = {}

    def __call__(self, kind: str, key: str, _place: str, elements: int) -> Storage:
        found, entry = Storage(kind, elements), self.entries[f"{self.folder}/data/{key}"]
        of_right_kind = isinstance(key, str) and type(elements) is int and 0 <= found.size <= entry.size
        if not of_right_kind or self.known.setdefault(key, found) != found:
            raise ValueError("a storage of another size than its entry")
        if entry.offset % found.width:
            raise ValueError("numbers that lie between their places in memory")
        return found


def _check_pickles(path: Path) -> None:
    """Raises InputError unless the file is what torch wrote before 1.6: pickles, then the bytes they speak of.

    Torch sets memory aside for all of it before it reads the first number.
    """
    size, claimed = path.stat().st_size, Claimed()
    walk = Walk(path, claimed)
    with path.open("rb") as file:
        pickles = Bounded(file)
        if walk.result(pickles) != LEGACY[0] or walk.result(pickles) != LEGACY[1]:
            raise InputError(f"{path} is not a checkpoint, or is damaged; {AGAIN}")
        walk.result(pickles)  # of the machine that wrote it
        walk.result(pickles)
        keys = walk.result(pickles)
        if type(keys) is not list or sorted(keys) != sorted(claimed.known):
            raise damaged(path)
        for key in keys:
            storage, count = claimed.known[key], file.read(8)
            if count != struct.pack("<q", storage.elements) or file.tell() + storage.size > size:
                raise damaged(path)
            file.seek(storage.size, os.SEEK_CUR)


class Claimed:
    """The storages that pickles speak of before they come."""

    def __init__(self) -> None:
        self.known: dict[str, Storage] = {}

    def __call__(self, kind: str, key: str, _place: str, elements: int, view: None) -> Storage:
        found = Storage(kind, elements)
        of_right_kind = isinstance(key, str) and type(elements) is int and elements >= 0 and view is None
        if not of_right_kind or self.known.setdefault(key, found) != found:
            raise ValueError("a storage that contradicts itself")
        return found
