"""ONNX files whose weights lie beside them: protobuf writes no message of 2 GiB or more, as ViT-H and larger are.

    model.onnx  model.onnx.data

The graph names the other file by its plain name, so that both can move together; `check_onnx` refuses any other place.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import onnx

from compress import files
from compress.checkpoints.graph_files import check_onnx

LARGEST_INSIDE = 2**31 - 2**24  # bytes of weights in the file itself; what is left is for the graph
LEAST_OUTSIDE = 1024  # bytes of a weight that is put outside
Result = TypeVar("Result")


def count_weight_bytes(proto: onnx.ModelProto) -> int:
    """Of a graph whose weights are in memory; it cannot tell its own size beyond 2 GiB."""
    return sum(len(each.raw_data) for each in proto.graph.initializer)


def locate_weights(path: Path) -> Path:
    """Where the weights of an ONNX file lie that does not hold them."""
    return path.with_suffix(".onnx.data")


def write_outside(proto: onnx.ModelProto, path: Path, check: Callable[[Path], Result]) -> Result:
    """Writes a graph and, beside it, its weights, which are not in memory afterwards.

    Args:
        check: looks at the graph, which is complete but not in its place yet; what it raises ends the work.

    Returns:
        What `check` does.

    Raises:
        RuntimeError: it is no graph that ONNX allows.
        InputError: the place cannot be written.
    """
    folder = path.parent / f".{path.name}.{os.getpid()}.tmp"  # of the same file system: files are moved, not copied
    made = folder / path.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _save(proto, made)
        result = check(made)
        locate_weights(made).replace(locate_weights(path))
        made.replace(path)
    except OSError as error:
        raise files.unwritable(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _save(proto: onnx.ModelProto, path: Path) -> None:
    weights = locate_weights(path)
    onnx.save_model(proto, path, save_as_external_data=True, location=weights.name, size_threshold=LEAST_OUTSIDE)
    check_onnx(path)
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise RuntimeError(f"{path.name} is no graph that ONNX allows ({error})") from error


def point_to(proto: onnx.ModelProto, weights: Path) -> bool:
    """Has a graph look for its weights in a file of that name beside it; whether any of them lie outside at all."""
    entries = [
        entry
        for each in proto.graph.initializer
        for entry in each.external_data
        if each.data_location == onnx.TensorProto.EXTERNAL and entry.key == "location"
    ]
    for entry in entries:
        entry.value = weights.name
    return bool(entries)


def share_file(source: Path, target: Path) -> None:
    """The same content under another name, without a copy where the file system allows that."""
    if source == target:
        return
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
