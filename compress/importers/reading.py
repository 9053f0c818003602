"""Files of weights, read such that nothing in them is run, and nothing they claim is believed before it was checked.

torch (zip, and the older pickles)   `weights_only=True`, with no class allowed beside tensors but `argparse.Namespace`,
                                     in which trainings keep their options; no entry compressed, no path, sizes add up
safetensors                          its own reader, which checks the header against the file
npz                                  no pickled objects; the header of each array against the bytes that are there
folder                               `config.json` and the weights beside it
"""

import argparse
import json
import math
import pickle
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.errors import InputError

ZIP, PICKLE = b"PK\x03\x04", b"\x80"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in a folder, in this order
LONGEST_JSON = 64 * 2**20  # bytes
MOST_ENTRIES = 100_000  # of an archive
UNPACKED = 4  # times its size, that an archive of arrays may grow, beside 64 MiB; weights hardly do
AGAIN = "fetch it again, or save it anew"


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
    if path.is_dir():
        return _folder(path)
    if path.name in WEIGHTS and (path.parent / "config.json").is_file():
        return _with_settings(path, path)
    return _file(path)


def torch_file(path: Path) -> Any:
    """What torch saved: a dictionary of tensors and plain values.

    Raises:
        InputError: as `read`.
    """
    start = first_bytes(path)
    if start.startswith(ZIP):
        check_archive(path, stored=True)
    elif not start.startswith(PICKLE):
        raise InputError(f"{path} is not a checkpoint, or is damaged; {AGAIN}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(ZIP))
    except pickle.UnpicklingError as error:
        raise _unsafe(path, str(error)) from error
    except Exception as error:  # torch raises many kinds for damaged files
        raise InputError(f"{path} is cut short or damaged; {AGAIN}") from error
    return content


def first_bytes(path: Path) -> bytes:
    """The first 16; raises InputError where there is nothing to read."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give the path of a checkpoint, such as best_vit_model.pth")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); give another file") from error
    if not start:
        raise InputError(f"{path} is empty; {AGAIN}")
    return start


def check_archive(path: Path, *, stored: bool) -> list[str]:
    """Names of the entries of a zip file.

    Args:
        stored: whether no entry may be compressed.

    Raises:
        InputError: it is damaged, would leave its folder, or unpacks to far more than it is.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile raises many kinds for damaged files
        raise InputError(f"{path} is cut short or damaged; {AGAIN}") from error
    if len(entries) > MOST_ENTRIES:
        raise InputError(f"{path} holds {len(entries):,} entries, more than any model has, so it is refused; {AGAIN}")
    for entry in entries:
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts:
            raise InputError(
                f"{path} holds an entry outside its own folder ({entry.filename}), so it is refused; {AGAIN}"
            )
        if stored and entry.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{path} is compressed inside, as no checkpoint of torch is, so it is refused; {AGAIN}")
    size, unpacked = path.stat().st_size, sum(entry.file_size for entry in entries)
    if unpacked > (size if stored else UNPACKED * size + 64 * 2**20):
        raise InputError(f"{path} unpacks to {unpacked:,} bytes out of {size:,}, so it is refused; {AGAIN}")
    return [entry.filename for entry in entries]


def _file(path: Path) -> Content:
    start = first_bytes(path)
    if start.startswith(ZIP) and path.suffix == ".npz":
        return Content(path, _arrays(path))
    if start.startswith((ZIP, PICKLE)):
        return Content(path, torch_file(path))
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix in (".onnx", ".xml"):
        raise InputError(
            f"{path} is made for an engine and cannot be compressed any more; give the checkpoint it came from"
        )
    raise InputError(f"{path} is not a checkpoint, or is damaged; give a .pth, .safetensors or .npz file, or a folder")


def _folder(path: Path) -> Content:
    for name in WEIGHTS:
        if (path / name).is_file():
            return _with_settings(path / name, path)
    if (path / "model.safetensors.index.json").is_file():
        raise InputError(f"{path} holds its weights in several files; save them as one model.safetensors")
    raise InputError(f"{path} is a folder without {' or '.join(WEIGHTS)}; give a file, or a folder that holds one")


def _with_settings(weights: Path, given: Path) -> Content:
    content, folder = _file(weights), weights.parent
    settings, preprocessing = (_json(folder / name) for name in ("config.json", "preprocessor_config.json"))
    return Content(given, content.tree, settings, preprocessing, content.metadata)


def _json(path: Path) -> dict[str, Any]:
    """The settings of a file; none where there is no such file."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > LONGEST_JSON:
            raise ValueError("too long")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON ({type(error).__name__}); {AGAIN}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no settings; {AGAIN}")
    return content


def _safetensors(path: Path) -> Content:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            tree = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dictionary
            return Content(path, tree, metadata=dict(file.metadata() or {}))
    except Exception as error:  # its own kinds, and those of torch
        raise InputError(
            f"{path} is no safetensors file, is cut short, or its header does not fit it; {AGAIN}"
        ) from error


def _arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of an npz file."""
    check_archive(path, stored=False)
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                with archive.open(entry) as file:
                    found[name] = _array(file, entry.file_size, f"{path}: {name}")
    except InputError:
        raise
    except Exception as error:  # zipfile and numpy raise many kinds for damaged files
        raise InputError(f"{path} is cut short or damaged; {AGAIN}") from error
    return found


def _array(file: Any, size: int, name: str) -> Tensor:
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = header(file)
    if dtype.hasobject:
        raise InputError(f"{name} is a pickle, which could run code when loaded, so it is refused; save plain arrays")
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise InputError(f"{name} has another size than its header says; {AGAIN}")
    values = np.frombuffer(bytearray(file.read()), dtype).reshape(shape, order="F" if by_columns else "C")
    return torch.from_numpy(np.ascontiguousarray(values.astype(dtype.newbyteorder("="), copy=False)))


def _unsafe(path: Path, fault: str) -> InputError:
    """The sentence for a file that asks for more than weights."""
    named = re.search(
        r"(?:Unsupported (?:global|class|operand|function)|GLOBAL)[ :]+(?:GLOBAL )?([\w.]+\.[\w.]+)", fault
    )
    if named is None:
        return InputError(f"{path} is not a checkpoint, or is damaged; {AGAIN}")
    return InputError(
        f"{path} holds more than weights ({named[1]}) and could run code when loaded, so it is refused; "
        "save its weights alone: torch.save(model.state_dict(), 'weights.pth')"
    )
