"""The engines a variant can run on. A new one is one file, and one line in `REGISTRY`.

What a runtime says of itself (its packages, files, devices, dtypes and shapes) is known without importing its engine:
only `Runtime.load` and `Runtime.inspect` do that, and they run in processes of their own (`client.py`).
"""

import pkgutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from baselines.errors import InputError
from compress.runtimes.base import BuildInputs, Inspection, Runtime, Session

REGISTRY = {
    "torch": "compress.runtimes.eager:Eager",
    "torch.compile": "compress.runtimes.compiled:Compiled",
    "torch.cudagraphs": "compress.runtimes.graphs:Graphs",
    "onnxruntime": "compress.runtimes.ort:Ort",
    "openvino": "compress.runtimes.openvino:Openvino",
    "nncf": "compress.runtimes.nncf:Nncf",
    "tensorrt": "compress.runtimes.ort:TensorRT",
}
CHECKPOINT = ".pth"  # the suffix of what torch loads


@cache
def _instance(place: str) -> Runtime:
    return pkgutil.resolve_name(place)()


def describe(name: str) -> Runtime:
    """The runtime of that name, whether or not its engine is installed; the engine is not imported.

    Raises:
        InputError: the name is unknown.
    """
    if name not in REGISTRY:
        raise InputError(f"--runtime {name!r} is not known; choose from {', '.join(REGISTRY)} or auto")
    return _instance(REGISTRY[name])


def describe_all() -> list[Runtime]:
    """All runtimes, the preferred ones first."""
    return [describe(name) for name in REGISTRY]


def get(name: str) -> Runtime:
    """The runtime of that name.

    Raises:
        InputError: the name is unknown, or one of its packages is not installed.
    """
    runtime = describe(name)
    if missing := runtime.missing_packages():
        raise InputError(
            f"--runtime {name} cannot be used: the package {missing[0]} is not installed; "
            f"install it with: pip install {' '.join(runtime.packages)}"
        )
    try:
        runtime.devices()
    except ImportError as error:  # it is there, and broken
        raise InputError(
            f"--runtime {name} cannot be used: {error}; install it with: pip install {' '.join(runtime.packages)}"
        ) from error
    return runtime


def get_all(names: Sequence[str]) -> list[Runtime]:
    """The runtimes of these names; where there are none, all whose packages are installed.

    Raises:
        InputError: as `get`, of a name that was given.
    """
    found = []
    for name in names or REGISTRY:
        try:
            found.append(get(name))
        except InputError:
            if names:
                raise
    return found


def list_packages(*, optional: bool | None = None) -> list[str]:
    """The packages that runtimes import, in the order of the registry.

    Args:
        optional: only those that an extra of compress installs (True), or only those that it always installs (False).
    """
    found = [(package, runtime.extra is not None) for runtime in describe_all() for package in runtime.packages]
    always = {package for package, extra in found if not extra}
    names = dict.fromkeys(package for package, _ in found)
    return [name for name in names if optional is None or optional is (name not in always)]


def find_openers(path: Path) -> list[str]:
    """Names of the runtimes that open a file, the preferred first. What no engine claims is taken for a checkpoint."""
    found = [runtime.name for runtime in describe_all() if runtime.opens_file(path)]
    return found or [runtime.name for runtime in describe_all() if runtime.suffix == CHECKPOINT]


def is_checkpoint(path: Path) -> bool:
    """Whether a file is one that `loading` reads, and not the file of an engine, by its name."""
    return all(describe(name).suffix == CHECKPOINT for name in find_openers(path))


def list_files(path: Path) -> list[Path]:
    """An artifact and the files beside it that belong to it, as far as they are there."""
    endings = {ending for runtime in describe_all() if (ending := runtime.side_files.get(path.suffix))}
    return [path, *(beside for ending in sorted(endings) if (beside := path.with_suffix(ending)).is_file())]


def count_bytes(path: Path) -> int:
    """Bytes of an artifact, with the files beside it that belong to it."""
    return sum(each.stat().st_size for each in list_files(path))


__all__ = [
    "REGISTRY",
    "BuildInputs",
    "Inspection",
    "Runtime",
    "Session",
    "count_bytes",
    "describe",
    "describe_all",
    "find_openers",
    "get",
    "get_all",
    "is_checkpoint",
    "list_files",
    "list_packages",
]
