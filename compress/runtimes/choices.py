"""Which recipe was the fastest on this machine: kept to order the candidates next time, and shown by `compress doctor`.

    ~/.cache/compress/lowerings.json       or below XDG_CACHE_HOME

What was measured holds for a model's geometry and methods, a batch size, a number of threads, a processor and the
versions of the engines. It never stands in for a measurement, and nothing that was measured under load is kept.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from baselines.cpu import cpu_flags
from baselines.listing import find_cache
from compress import files, runtimes
from compress.measure import environment


@dataclass(frozen=True)
class Choice:
    """One decision."""

    model: str  # for a person: "vit 384 x 12, 197 tokens"
    machine: str
    batch_size: int
    threads: int
    chosen: str  # name of the recipe
    speedup: float  # over the float model in torch
    why: str
    tried: dict[str, float]  # speed-up of every recipe, by name
    time_utc: str = ""


def make_key(
    model: Mapping[str, Any], methods: list[dict[str, Any]], batch_size: int, threads: int, device: str = "cpu"
) -> str:
    """What a choice depends on.

    Args:
        model: geometry.
    """
    facts = environment.capture(device, threads, runtimes.list_packages())
    versions = facts["versions"]
    machine = [environment.cpu_name(), sorted(cpu_flags()), environment.available_cpus(), *environment.name_gpu(facts)]
    engines = {name: versions.get(name) for name in ("compress", *runtimes.list_packages())}
    return files.key(model, methods, batch_size, threads, machine, engines)


def load() -> dict[str, Choice]:
    """All choices by key; none where the file is missing or damaged, since all can be measured again."""
    try:
        return {name: Choice(**entry) for name, entry in json.loads(locate().read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def remember(name: str, choice: Choice) -> None:
    """Keeps a choice.

    Raises:
        InputError: the place cannot be written.
    """
    now = datetime.now(UTC).isoformat(timespec="minutes")
    with files.locked(locate()):
        known = {each: asdict(entry) for each, entry in load().items()}
        known[name] = {**asdict(choice), "time_utc": now}
        files.write(locate(), json.dumps(known, indent=1))


def locate() -> Path:
    return find_cache() / "lowerings.json"
