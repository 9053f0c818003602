"""Imports one package in a process of its own and says what it offers here.

    python -m compress.doctor.probe PACKAGE

Prints one line of JSON last; what fails ends the process with its own traceback.
"""

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any


def torch() -> dict[str, Any]:
    import torch

    devices = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            capability = torch.cuda.get_device_capability(index)
            name = torch.cuda.get_device_name(index)
            devices.append({"name": name, "capability": capability, "free": free, "total": total})
    return {"cuda": torch.version.cuda, "devices": devices, "compiler": _compiler(), "detail": _built_for(torch)}


def _built_for(torch: Any) -> str:
    if torch.version.cuda:
        return f"built for CUDA {torch.version.cuda}"
    return "built for ROCm" if torch.version.hip else "built for the CPU alone"


def _compiler() -> str | None:
    """The C++ compiler that torch.compile would use on a CPU."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        return get_cpp_compiler()
    except Exception:  # private to torch, and it raises kinds of its own where there is none
        return None


def torchvision() -> dict[str, Any]:
    importlib.import_module("torchvision.ops")  # compiled, and made for one build of torch
    return {"detail": "its operators load"}


def onnxruntime() -> dict[str, Any]:
    import onnxruntime

    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    return {"detail": f"providers: {', '.join(providers)}"}


def openvino() -> dict[str, Any]:
    import openvino

    return {"detail": f"devices: {', '.join(openvino.Core().available_devices)}"}


def nncf() -> dict[str, Any]:
    importlib.import_module("openvino")  # what it quantizes for; it can be imported without
    return {"detail": "quantizes for OpenVINO"}


SPECIAL: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": torch,
    "torchvision": torchvision,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "nncf": nncf,
}


def main(package: str) -> None:
    importlib.import_module(package)
    print(json.dumps(SPECIAL.get(package, dict)()))


if __name__ == "__main__":
    main(sys.argv[1])
