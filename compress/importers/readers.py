"""Files of weights, read such that nothing in them is run, and nothing they claim is believed before it was checked.

torch (zip, and the older pickles)   `torch_files.py`: walked first, then loaded with `weights_only=True`
safetensors                          its own reader, which checks sizes, overlaps and gaps before anything is read
npz                                  by hand, since numpy's reader sets memory aside for whatever a header claims
folder                               `config.json` and the weights beside it, in one file or in parts (`shards.py`)
"""

import json
import math
import os
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.errors import InputError
from compress.importers.base import Content
from compress.importers.integrity import REMEDY, ZIP, check_archive, read_first_bytes, refuse_damaged
from compress.importers.shards import INDEXES, is_part, read_parts
from compress.importers.torch_files import PICKLE, load_torch_file
from compress.importers.wrappers import refuse_adapter

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in a folder, in this order
LONGEST_JSON = 8 * 2**20  # bytes; names of 20,000 classes take two
LONGEST_TEXT = 2_000  # characters of a name or value in it


def read_checkpoint(path: Path) -> Content:
    """Reads a checkpoint onto the CPU.

    Raises:
        InputError: missing, of no known format, cut short, damaged, or holding more than weights.
    """
    if os.path.isdir(path):
        return _read_folder(path)
    if is_part(path):
        raise InputError(f"{path} is a part of a model in several files; give the folder of all: {path.parent}")
    if path.name in WEIGHTS and os.path.isfile(path.parent / "config.json"):
        return _read_with_settings(path, path)
    return _read_file(path)


def _read_file(path: Path) -> Content:
    start = read_first_bytes(path)
    header = int.from_bytes(start[:8], "little")  # its length; the first byte of it may be that of a pickle
    if path.suffix == ".safetensors" or (start[8:9] == b"{" and header < path.stat().st_size):
        return _read_safetensors(path)
    if start.startswith(ZIP) and path.suffix == ".npz":
        return Content(path, _read_arrays(path))
    if start.startswith((ZIP, PICKLE)):
        return Content(path, load_torch_file(path))
    if path.suffix in (".onnx", ".xml"):
        raise InputError(
            f"{path} is made for an engine and cannot be compressed any more; give the checkpoint it came from"
        )
    raise InputError(f"{path} is not a checkpoint, or is damaged; give a .pth, .safetensors or .npz file, or a folder")


def _read_folder(path: Path) -> Content:
    for name in WEIGHTS:
        if os.path.lexists(path / name):
            return _read_with_settings(path / name, path)
    for name in INDEXES:
        if os.path.lexists(path / name):
            return _read_parts(path / name, path)
    if os.path.lexists(path / "adapter_config.json"):
        raise refuse_adapter(path, "adapter_config.json")
    raise InputError(f"{path} is a folder without {' or '.join(WEIGHTS)}; give a file, or a folder that holds one")


def _read_parts(index: Path, given: Path) -> Content:
    return _add_settings(Content(given, read_parts(index, _read_settings(index), _read_file)), index.parent)


def _read_with_settings(weights: Path, given: Path) -> Content:
    return _add_settings(replace(_read_file(weights), path=given), weights.parent)


def _add_settings(content: Content, folder: Path) -> Content:
    settings, preprocessing = (_read_settings(folder / name) for name in ("config.json", "preprocessor_config.json"))
    return replace(content, settings=settings, preprocessing=preprocessing)


def _read_settings(path: Path) -> dict[str, Any]:
    """What a file of settings says; nothing where there is no such file."""
    if not os.path.lexists(path):
        return {}
    read_first_bytes(path)
    try:
        if path.stat().st_size > LONGEST_JSON:
            raise ValueError("too long")
        return _parse_json(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON, or holds no settings; {REMEDY}") from error


def _parse_json(text: bytes) -> dict[str, Any]:
    """Raises ValueError or RecursionError where it is no table of names, finite numbers and texts of a usual length."""
    content = json.loads(text.decode())
    if not isinstance(content, dict):
        raise ValueError("no table")
    for value in _list_leaves(content):
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise ValueError("too long a text")
        if isinstance(value, float | int) and not abs(value) < 2**63:  # nor NaN
            raise ValueError("too large a number")
    return content


def _list_leaves(value: Any) -> Iterator[Any]:
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield from value
        if isinstance(value, dict | list):
            pending += value.values() if isinstance(value, dict) else value
        else:
            yield value


def _read_safetensors(path: Path) -> Content:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            tree = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dictionary
            return Content(path, tree, metadata=dict(file.metadata() or {}))
    except Exception as error:  # its own kinds, and those of torch
        raise InputError(
            f"{path} is no safetensors file, is cut short, its header does not fit it, or it holds numbers that torch "
            f"does not have; {REMEDY}"
        ) from error


def _read_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of an npz file."""
    found = {}
    check_archive(path, stored=False)
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                with archive.open(entry) as file:
                    found[name] = _read_array(file, entry.file_size, f"{path}: {name[:80]}")
    except InputError:
        raise
    except Exception as error:  # zipfile and numpy raise many kinds for damaged files
        raise refuse_damaged(path) from error
    return found


def _read_array(file: Any, size: int, name: str) -> Tensor:
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = header(file)
    if dtype.hasobject:
        raise InputError(f"{name} is a pickle, which could run code when loaded, so it is refused; save plain arrays")
    bfloat16 = dtype.kind == "V" and dtype.names is None and dtype.itemsize == 2  # numpy has no name for it
    if dtype.kind not in "biuf" and not bfloat16:
        raise InputError(f"{name} holds {str(dtype)[:40]}, where plain numbers are expected; save it as float32")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - file.tell():
        raise InputError(f"{name} has another size than its header says; {REMEDY}")
    values = np.frombuffer(bytearray(file.read()), np.uint16 if bfloat16 else dtype)
    values = values.reshape(shape, order="F" if by_columns else "C").astype(values.dtype.newbyteorder("="), copy=False)
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.view(torch.bfloat16) if bfloat16 else tensor
