"""Which way to integers was the fastest on this machine: measured once, kept, and shown by `compress doctor`.

    ~/.cache/compress/lowerings.json       or below XDG_CACHE_HOME

What was measured holds for a model's geometry and methods, a batch size, a number of threads, a processor and the
versions of the engines; where one of them changes, it is measured again. Needs no torch.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compress import files
from compress.measure import environment

ENGINES = ("compress", "torch", "onnxruntime", "openvino", "nncf")


@dataclass(frozen=True)
class Choice:
    """One decision."""

    model: str  # for a person: "vit 384 x 12, 197 tokens"
    machine: str
    batch_size: int
    threads: int
    chosen: str  # name of the lowering
    speedup: float  # over the float model in torch
    why: str
    tried: dict[str, float]  # speed-up of every lowering, by name
    time_utc: str = ""


def key(model: Mapping[str, Any], methods: list[dict[str, Any]], wanted: Any, batch_size: int, threads: int) -> str:
    """What a choice depends on.

    Args:
        model: geometry.
        wanted: which lowerings were to be tried, with their settings.
    """
    versions = environment.capture("cpu", threads)["versions"]
    machine = [environment.cpu_name(), sorted(environment.cpu_flags()), environment.available_cpus()]
    geometry = {name: value for name, value in model.items() if name != "classes"}
    engines = {name: versions.get(name) for name in ENGINES}
    return files.key(geometry, methods, wanted, batch_size, threads, machine, engines)


def load() -> dict[str, Choice]:
    """All choices by key; none where the file is missing or damaged, since all can be measured again."""
    try:
        return {name: Choice(**entry) for name, entry in json.loads(place().read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def remember(name: str, choice: Choice) -> None:
    """Keeps a choice.

    Raises:
        InputError: the place cannot be written.
    """
    now = datetime.now(UTC).isoformat(timespec="minutes")
    known = {each: asdict(entry) for each, entry in load().items()}
    known[name] = {**asdict(choice), "time_utc": now}
    files.write(place(), json.dumps(known, indent=1))


def place() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compress" / "lowerings.json"
