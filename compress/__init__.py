"""Model compression and efficiency benchmarking for Vision Transformers; see `compress.api` for use from Python."""

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before any import of ONNX Runtime, in every process of ours

__all__ = ["Artifact", "Result", "bench", "distill", "export", "halt", "load", "predict", "prune", "quantize", "search"]

if TYPE_CHECKING:
    from compress.api import Artifact, Result, bench, distill, export, halt, load, predict, prune, quantize, search


def __getattr__(name: str) -> Any:
    """What programs use is imported when it is first asked for: the command line does not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module 'compress' has no attribute {name!r}")
    return getattr(importlib.import_module("compress.api"), name)
