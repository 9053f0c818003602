"""What the machine is, as `compress doctor` tells it."""

from collections.abc import Mapping
from typing import Any

from gpu_steps import Setup

from compress.doctor import cuda, engines, machine

PROBED = ("torch", "torchvision", "onnxruntime")


def examine(setup: Setup, _seconds: float) -> Mapping[str, Any]:
    """Raises RuntimeError where torch finds no device of the kind that is asked for."""
    facts: dict[str, Any] = dict([*machine.processor(), *machine.memory()])
    if setup.miniature:
        return facts
    found = engines.probe(PROBED)
    facts |= dict(cuda.rows(found["torch"]))
    facts |= {name: f"{each.version}: {each.facts.get('detail') or each.error}" for name, each in found.items()}
    facts["other programs"] = cuda.others()
    if setup.device == "cuda" and not found["torch"].facts.get("devices"):
        raise RuntimeError(f"torch finds no CUDA device: {facts['devices']}")
    return facts
