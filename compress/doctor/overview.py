"""`compress doctor`: what this machine offers, what works on it, and why a file is as fast as it is."""

import os
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from compress import runtimes
from compress.doctor import cuda, engines, machine
from compress.doctor.engines import Found
from compress.measure.environment import available_cpus, cpu_name
from compress.runtimes import choices
from compress.tables import show, tell


def doctor(
    artifact: Path | None, threads: int | None, console: Console, batch_size: int = 1, out: Path | None = None
) -> int:
    """Prints what was read and measured, nothing else.

    Args:
        artifact: an .onnx file, foreign ones too, or a checkpoint of compress.
        threads: of the measured runs; all processors of this process without it.
        batch_size: of the measured runs.
        out: run directory for the rows of the comparison.

    Returns:
        0, or 1 where something that compress needs does not work.

    Raises:
        InputError: the artifact is missing, damaged, or neither of the two.
    """
    if artifact is not None:
        from compress.doctor.artifact import check

        check(artifact)
    found = engines.probe()
    _machine(console)
    _engines(found, console)
    _choices(console)
    broken = [each.name for each in found.values() if each.broken]
    if artifact is not None:
        needed = "onnxruntime" if artifact.suffix == ".onnx" else "torch"
        if needed in broken:
            tell(console, artifact.name, [f"it was not looked into: that needs {needed}, which does not work here"])
        else:
            from compress.doctor.artifact import examine

            examine(artifact, threads or available_cpus(), batch_size, _usable(found), console, out)
    return 1 if broken else 0


def _machine(console: Console) -> None:
    show(console, "machine", [*machine.processor(), *machine.memory()])
    show(console, "instructions", machine.instructions(machine.flags()), ("", "here", "what follows"))


def _engines(found: Mapping[str, Found], console: Console) -> None:
    show(console, "CUDA", cuda.rows(found["torch"]))
    tell(console, "other programs", cuda.others())
    show(console, "engines", engines.rows(found), ("engine", "version", "works", ""))
    tell(console, "to put right", [*engines.repairs(found), *engines.unsuitable_versions()])
    settings = engines.settings(os.environ)
    show(console, "settings that change timings", settings, ("variable", "value", "what it does"))


def _choices(console: Console) -> None:
    """What `compress quantize` found to be the fastest here."""
    rows = [
        (each.model, each.batch_size, each.threads, each.chosen, f"{each.speedup:.2f}x", each.time_utc, each.why)
        for each in choices.load().values()
        if each.machine == cpu_name()
    ]
    headings = ("model", "batch", "threads", "fastest in integers", "over fp32 in torch", "measured", "why")
    show(console, f"ways to integers, as measured here ({choices.locate()})", rows, headings)


def _usable(found: Mapping[str, Found]) -> list[str]:
    """Names of the runtimes whose package works here."""
    working = {name for name, each in found.items() if each.works}
    return [each.name for each in runtimes.describe_all() if working.issuperset(each.packages)]
