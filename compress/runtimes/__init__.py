"""The engines a variant can run on. A new one is one file and one line here."""

import importlib
import sys
from typing import Any

from baselines.errors import InputError
from compress.runtimes.base import Inspection, Runtime, Session

_MODULES = {
    "torch": "compress.runtimes.eager",
    "torch.compile": "compress.runtimes.compiled",
    "onnxruntime": "compress.runtimes.ort",
    "openvino": "compress.runtimes.openvino",
    "nncf": "compress.runtimes.nncf",
}
_PACKAGES = {"torch.compile": "torch", "nncf": "nncf openvino"}  # where they are not called as the runtime is
RUNTIMES = tuple(_MODULES)

# OpenVINO and NNCF report to Google Analytics whenever they are imported, unless the package that does so is missing.
_imported: dict[str, Any] = sys.modules
_imported.setdefault("openvino_telemetry", None)


def get(name: str) -> Runtime:
    """The runtime of that name, imported only now: a process that runs one engine should not hold the others.

    Raises:
        InputError: unknown name, or its package is not installed here.
    """
    if name not in _MODULES:
        raise InputError(f"--runtime {name!r} is not known; choose from {', '.join(RUNTIMES)} or auto")
    try:
        return importlib.import_module(_MODULES[name]).RUNTIME
    except ImportError as error:
        package = _PACKAGES.get(name, name)
        raise InputError(f"--runtime {name} cannot be used: {error}; install it with: pip install {package}") from error


__all__ = ["RUNTIMES", "Inspection", "Runtime", "Session", "get"]
