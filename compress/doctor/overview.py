"""`compress doctor`: what this machine offers, what works on it, and why a file is as fast as it is."""

import os
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from compress import runtimes
from compress.doctor import cuda, engines, machine
from compress.doctor.engines import Found
from compress.measure.environment import available_cpus, cpu_name
from compress.outcome import Outcome
from compress.runtimes import choices
from compress.tables import Findings


def doctor(
    artifact: Path | None, threads: int | None, console: Console, batch_size: int = 1, out: Path | None = None
) -> Outcome:
    """Prints what was read and measured, nothing else; the outcome holds the same, by the titles of the tables.

    Args:
        artifact: an .onnx file, foreign ones too, or a checkpoint of compress.
        threads: of the measured runs; all processors of this process without it.
        batch_size: of the measured runs.
        out: run directory for the rows of the comparison.

    Returns:
        Its exit code is 1 where something that compress needs does not work.

    Raises:
        InputError: the artifact is missing, damaged, or neither of the two.
    """
    if artifact is not None:
        from compress.doctor.artifact import check

        check(artifact)
    findings, found, rows = Findings(console), engines.probe(), None
    _machine(findings)
    _engines(found, findings)
    _choices(findings)
    broken = [each.name for each in found.values() if each.broken]
    if artifact is not None:
        needed = "onnxruntime" if artifact.suffix == ".onnx" else "torch"
        if needed in broken:
            reason = f"not inspected: that needs {needed}, which does not work here"
            findings.tell(artifact.name, [reason], key="file")
        else:
            from compress.doctor.artifact import examine

            rows = examine(artifact, threads or available_cpus(), batch_size, _usable(found), findings, out)
    return Outcome(rows=rows, facts=findings.kept, exit_code=int(bool(broken)))


def _machine(findings: Findings) -> None:
    findings.show("machine", [*machine.processor(), *machine.memory()])
    findings.show("instructions", machine.instructions(machine.flags()), ("instruction", "here", "what follows"))


def _engines(found: Mapping[str, Found], findings: Findings) -> None:
    findings.show("CUDA", cuda.rows(found["torch"]))
    findings.tell("other programs", cuda.others())
    findings.show("engines", engines.rows(found), ("engine", "version", "works", ""))
    findings.tell("problems and fixes", [*engines.repairs(found), *engines.unsuitable_versions()])
    settings = engines.settings(os.environ)
    findings.show("settings that change timings", settings, ("variable", "value", "what it does"))


def _choices(findings: Findings) -> None:
    """What `compress quantize` found to be the fastest here."""
    rows = [
        (each.model, each.batch_size, each.threads, each.chosen, f"{each.speedup:.2f}x", each.time_utc, each.why)
        for each in choices.load().values()
        if each.machine == cpu_name()
    ]
    headings = ("model", "batch", "threads", "fastest in integers", "over fp32 in torch", "measured", "why")
    findings.show(f"ways to integers, as measured here ({choices.locate()})", rows, headings, key="choices")


def _usable(found: Mapping[str, Found]) -> list[str]:
    """Names of the runtimes whose package works here."""
    working = {name for name, each in found.items() if each.works}
    return [each.name for each in runtimes.describe_all() if working.issuperset(each.packages)]
