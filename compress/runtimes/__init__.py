"""The engines a variant can run on. A new one is one file and one line here."""

import importlib

from baselines.errors import InputError
from compress.runtimes.base import Runtime, Session

_MODULES = {"torch": "compress.runtimes.eager", "onnxruntime": "compress.runtimes.ort"}
RUNTIMES = tuple(_MODULES)


def get(name: str) -> Runtime:
    """The runtime of that name, imported only now: a process that runs one engine should not hold the others.

    Raises:
        InputError: unknown name.
    """
    if name not in _MODULES:
        raise InputError(f"--runtime {name!r} is not known; choose from {', '.join(RUNTIMES)} or auto")
    return importlib.import_module(_MODULES[name]).RUNTIME


__all__ = ["RUNTIMES", "Runtime", "Session", "get"]
