"""Files that torch wrote: the zip archives of version 1.6 and later, and the row of pickles before.

Every file is looked through first (`integrity.py`, `pickle_scan.py`): nothing is loaded unless its pickles make plain
trees of plain tensors, and these lie in bytes that are there. Then torch reads it, with `weights_only=True`.
"""

import argparse
import io
import os
import struct
import warnings
from pathlib import Path
from typing import Any

import torch

from baselines.errors import InputError
from compress.importers.integrity import REMEDY, ZIP, check_archive, read_first_bytes, refuse_damaged
from compress.importers.pickle_scan import LONGEST, Storage, scan_pickle
from compress.importers.stand_ins import STAND_INS

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
        raise _refuse_other(path)
    try:
        known = [argparse.Namespace, *((made, name) for name, made in STAND_INS.items())]
        with torch.serialization.safe_globals(known), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how old a file is: it is read all the same
            return torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(ZIP))
    except Exception as error:  # torch raises many kinds for damaged files
        raise refuse_damaged(path) from error


def _refuse_other(path: Path) -> InputError:
    return InputError(f"{path} is not a checkpoint, or is damaged; {REMEDY}")


def _check_zip(path: Path) -> None:
    """Raises InputError unless the file is an archive of torch whose tensors lie in its entries."""
    entries = check_archive(path, stored=True)
    folder = next(iter(entries), "").partition("/")[0]
    pickle = entries.get(f"{folder}/data.pkl")
    if pickle is None or not all(name.startswith(f"{folder}/") for name in entries):
        raise _refuse_other(path)
    if pickle.size > LONGEST:
        raise InputError(f"{path} holds more than weights: a pickle of {pickle.size:,} bytes; save its weights alone")
    storages: dict[str, Storage] = {}
    with path.open("rb") as file:
        file.seek(pickle.offset)
        scan_pickle(path, io.BytesIO(file.read(pickle.size)), storages)
    for key, storage in storages.items():
        entry = entries.get(f"{folder}/data/{key}")
        if entry is None or storage.size > entry.size or entry.offset % storage.width:  # whole numbers in memory
            raise refuse_damaged(path)


def _check_pickles(path: Path) -> None:
    """Raises InputError unless the file is what torch wrote before 1.6: pickles, then the bytes they speak of.

    Torch sets memory aside for all of it before it reads the first number.
    """
    storages: dict[str, Storage] = {}
    with path.open("rb") as file:
        content = io.BytesIO(file.read(LONGEST))
        pickles = (scan_pickle(path, content, storages) for _ in range(5))
        if any(next(pickles) != wanted for wanted in LEGACY):
            raise _refuse_other(path)
        _machine, _tree, keys = pickles
        listed = type(keys) is list and all(type(key) is str for key in keys)  # a file may say anything of itself
        if not listed or sorted(keys) != sorted(storages):
            raise refuse_damaged(path)
        file.seek(content.tell())
        for storage in map(storages.__getitem__, keys):
            count, size = file.read(8), path.stat().st_size
            if count != struct.pack("<q", storage.size // storage.width) or file.tell() + storage.size > size:
                raise refuse_damaged(path)
            file.seek(storage.size, os.SEEK_CUR)
