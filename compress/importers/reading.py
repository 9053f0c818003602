"""Files of weights, read such that nothing in them is run, and nothing they claim is believed before it was checked.

torch (zip, and the older pickles)   `torch_files.py`: walked first, then loaded with `weights_only=True`
safetensors                          its header against the file, then its own reader
npz                                  no pickled objects; the header of each array against the bytes that are there
folder                               `config.json` and the weights beside it
"""

import itertools
import json
import math
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.errors import InputError
from compress.importers.intact import AGAIN, ZIP, check_archive, damaged, first_bytes
from compress.importers.torch_files import PICKLE, torch_file

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in a folder, in this order
LONGEST_JSON = 8 * 2**20  # bytes; names of 20,000 classes take two
LONGEST_TEXT = 2_000  # characters of a name or value in it
WIDTHS = {  # bytes of a number, by its name in safetensors
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}


@dataclass(frozen=True)
class Content:
    """What a file holds."""

    path: Path  # as it was given
    tree: Any  # names -> tensors, perhaps inside of further dictionaries
    settings: dict[str, Any] = field(default_factory=dict)  # config.json beside the weights
    preprocessing: dict[str, Any] = field(default_factory=dict)  # preprocessor_config.json
    metadata: dict[str, str] = field(default_factory=dict)  # of a safetensors file


def read(path: Path) -> Content:
    """Reads a checkpoint onto the CPU.

    Raises:
        InputError: missing, of no known format, cut short, damaged, or holding more than weights.
    """
    if os.path.isdir(path):
        return _folder(path)
    if path.name in WEIGHTS and os.path.isfile(path.parent / "config.json"):
        return _with_settings(path, path)
    return _file(path)


def _file(path: Path) -> Content:
    start = first_bytes(path)
    header = int.from_bytes(start[:8], "little")  # its length; the first byte of it may be that of a pickle
    if path.suffix == ".safetensors" or (start[8:9] == b"{" and header < path.stat().st_size):
        return _safetensors(path)
    if start.startswith(ZIP) and path.suffix == ".npz":
        return Content(path, _arrays(path))
    if start.startswith((ZIP, PICKLE)):
        return Content(path, torch_file(path))
    if path.suffix in (".onnx", ".xml"):
        raise InputError(
            f"{path} is made for an engine and cannot be compressed any more; give the checkpoint it came from"
        )
    raise InputError(f"{path} is not a checkpoint, or is damaged; give a .pth, .safetensors or .npz file, or a folder")


def _folder(path: Path) -> Content:
    for name in WEIGHTS:
        if os.path.lexists(path / name):
            return _with_settings(path / name, path)
    if os.path.lexists(path / "model.safetensors.index.json"):
        raise InputError(f"{path} holds its weights in several files; save them as one model.safetensors")
    raise InputError(f"{path} is a folder without {' or '.join(WEIGHTS)}; give a file, or a folder that holds one")


def _with_settings(weights: Path, given: Path) -> Content:
    content, folder = _file(weights), weights.parent
    settings, preprocessing = (_settings(folder / name) for name in ("config.json", "preprocessor_config.json"))
    return Content(given, content.tree, settings, preprocessing, content.metadata)


def _settings(path: Path) -> dict[str, Any]:
    """What a file of settings says; nothing where there is no such file."""
    if not os.path.lexists(path):
        return {}
    first_bytes(path)
    try:
        if path.stat().st_size > LONGEST_JSON:
            raise ValueError("too long")
        return _json(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON, or holds no settings; {AGAIN}") from error


def _json(text: bytes) -> dict[str, Any]:
    """Raises ValueError or RecursionError where it is no table of names, finite numbers and texts of a usual length."""
    content = json.loads(text.decode(), parse_constant=_no_number)
    if not isinstance(content, dict):
        raise ValueError("no table")
    for value in _leaves(content):
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise ValueError("too long a text")
        if isinstance(value, float | int) and not abs(value) < 2**63:
            raise ValueError("too large a number")
    return content


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _leaves(value: Any) -> Iterator[Any]:
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield from value
        if isinstance(value, dict | list):
            pending += value.values() if isinstance(value, dict) else value
        else:
            yield value


def _safetensors(path: Path) -> Content:
    import safetensors

    try:
        _check_header(path)
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            tree = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dictionary
            return Content(path, tree, metadata=dict(file.metadata() or {}))
    except InputError:
        raise
    except Exception as error:  # its own kinds, and those of torch
        raise InputError(
            f"{path} is no safetensors file, is cut short, or its header does not fit it; {AGAIN}"
        ) from error


def _check_header(path: Path) -> None:
    """Raises ValueError and the like unless tensors fill the file, one after another."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, LONGEST_JSON):
            raise ValueError("a header longer than the file, or than any model needs")
        header = json.loads(file.read(length).decode(), object_pairs_hook=_unique)
    spans = []
    for name, told in header.items():
        if name == "__metadata__":
            continue
        kind, shape, (start, end) = told["dtype"], told["shape"], told["data_offsets"]
        if kind not in WIDTHS:
            raise InputError(f"{path}: {name[:80]} holds {str(kind)[:20]} numbers; save it as F32, F16 or BF16")
        if any(type(each) is not int or each < 0 for each in (*shape, start, end)):
            raise ValueError("sizes that are none")
        if math.prod(shape) * WIDTHS[kind] != end - start:
            raise ValueError("a tensor of another size than its shape")
        spans.append((start, end))
    edges = [0, *itertools.chain.from_iterable(sorted(spans)), size - 8 - length]
    if edges[::2] != edges[1::2]:
        raise ValueError("tensors that overlap, or leave gaps")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name that comes twice")
    return found


def _arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of an npz file."""
    found = {}
    check_archive(path, stored=False)
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                with archive.open(entry) as file:
                    found[name] = _array(file, entry.file_size, f"{path}: {name[:80]}")
    except InputError:
        raise
    except Exception as error:  # zipfile and numpy raise many kinds for damaged files
        raise damaged(path) from error
    return found


def _array(file: Any, size: int, name: str) -> Tensor:
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = header(file)
    if dtype.hasobject:
        raise InputError(f"{name} is a pickle, which could run code when loaded, so it is refused; save plain arrays")
    bfloat16 = dtype.kind == "V" and dtype.names is None and dtype.itemsize == 2  # numpy has no name for it
    if dtype.kind not in "biuf" and not bfloat16:
        raise InputError(f"{name} holds {str(dtype)[:40]}, where plain numbers are expected; save it as float32")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - file.tell():
        raise InputError(f"{name} has another size than its header says; {AGAIN}")
    values = np.frombuffer(bytearray(file.read()), np.uint16 if bfloat16 else dtype)
    values = values.reshape(shape, order="F" if by_columns else "C").astype(values.dtype.newbyteorder("="), copy=False)
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.view(torch.bfloat16) if bfloat16 else tensor


__all__ = ["Content", "read", "torch_file"]
