"""Files that torch wrote: the zip archives of version 1.6 and later, and the row of pickles before.

Every file is looked through first (`integrity.py`, `pickle_scan.py`): nothing is loaded unless its pickles make plain
trees of plain tensors, and these lie in bytes that are there. Then torch reads it, with `weights_only=True`.
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
from compress.importers.integrity import REMEDY, ZIP, ArchiveEntry, check_archive, read_first_bytes, refuse_damaged
from compress.importers.pickle_allowlist import Storage
from compress.importers.pickle_scan import LONGEST, BoundedFile, PickleScan

PICKLE = b"\x80"
LEGACY = torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION


def load_torch_file(path: Path) -> Any:
    """What torch saved: a dictionary of tensors and plain values.

    Raises:
        InputError: missing, damaged, or holding more than weights.
    """
    start = read_first_bytes(path)
    if start.startswith(ZIP):
        _check_zip(path)
    elif start.startswith(PICKLE):
        _check_pickles(path)
    else:
        raise InputError(f"{path} is not a checkpoint, or is damaged; {REMEDY}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how old a file is: it is read all the same
            return torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(ZIP))
    except Exception as error:  # torch raises many kinds for damaged files
        raise refuse_damaged(path) from error


def _check_zip(path: Path) -> None:
    """Raises InputError unless the file is an archive of torch whose tensors lie in its entries."""
    entries = check_archive(path, stored=True)
    folder = next(iter(entries), "").partition("/")[0]
    pickle = entries.get(f"{folder}/data.pkl")
    if pickle is None or not all(name.startswith(f"{folder}/") for name in entries):
        raise InputError(f"{path} is not a checkpoint, or is damaged; {REMEDY}")
    if pickle.size > LONGEST:
        raise InputError(f"{path} holds more than weights: a pickle of {pickle.size:,} bytes; save its weights alone")
    with path.open("rb") as file:
        file.seek(pickle.offset)
        content = io.BytesIO(file.read(pickle.size))
    PickleScan(path, ZipStorages(entries, folder)).scan(content)


class ZipStorages:
    """The storages of an archive: one entry each."""

    def __init__(self, entries: Mapping[str, ArchiveEntry], folder: str):
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
    size, storages = path.stat().st_size, LegacyStorages()
    walk = PickleScan(path, storages)
    with path.open("rb") as file:
        pickles = BoundedFile(file)
        if walk.scan(pickles) != LEGACY[0] or walk.scan(pickles) != LEGACY[1]:
            raise InputError(f"{path} is not a checkpoint, or is damaged; {REMEDY}")
        walk.scan(pickles)  # of the machine that wrote it
        walk.scan(pickles)
        keys = walk.scan(pickles)
        if type(keys) is not list or sorted(keys) != sorted(storages.known):
            raise refuse_damaged(path)
        for key in keys:
            storage, count = storages.known[key], file.read(8)
            if count != struct.pack("<q", storage.elements) or file.tell() + storage.size > size:
                raise refuse_damaged(path)
            file.seek(storage.size, os.SEEK_CUR)


class LegacyStorages:
    """The storages that pickles speak of before they come."""

    def __init__(self) -> None:
        self.known: dict[str, Storage] = {}

    def __call__(self, kind: str, key: str, _place: str, elements: int, view: None) -> Storage:
        found = Storage(kind, elements)
        of_right_kind = isinstance(key, str) and type(elements) is int and elements >= 0 and view is None
        if not of_right_kind or self.known.setdefault(key, found) != found:
            raise ValueError("a storage that contradicts itself")
        return found
