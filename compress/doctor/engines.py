"""Which engines work here: each is really imported, in a process of its own that may fail or hang by itself."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from compress import runtimes

ALWAYS = ("torchvision", "onnx", "onnxscript")  # what compress needs beside the engines
PATIENCE_S = 180.0  # for all imports together
SOURCE = Path(__file__).resolve().parents[2]
SETTINGS = {
    "OMP_NUM_THREADS": "number of OpenMP threads; --threads decides for engines that can be told",
    "MKL_NUM_THREADS": "number of threads of MKL, whatever --threads says",
    "OMP_WAIT_POLICY": "how idle OpenMP threads wait; active ones hold processors that other work needs",
    "GOMP_SPINCOUNT": "how long idle OpenMP threads spin before they sleep",
    "KMP_BLOCKTIME": "how long idle threads of Intel's OpenMP spin before they sleep",
    "KMP_AFFINITY": "binds threads to processors",
    "GOMP_CPU_AFFINITY": "binds threads to processors",
    "OMP_PROC_BIND": "binds threads to processors; two programs bound to the same ones halve their speed",
    "ATEN_CPU_CAPABILITY": "limits the instructions that torch uses",
    "ONEDNN_MAX_CPU_ISA": "limits the instructions that oneDNN uses",
    "DNNL_MAX_CPU_ISA": "limits the instructions that oneDNN uses",
    "ONEDNN_DEFAULT_FPMATH_MODE": "lets oneDNN compute float32 in fewer bits: fp32 rows are then not fp32",
    "CUDA_LAUNCH_BLOCKING": "waits after every CUDA kernel; timings are too long",
    "CUDA_VISIBLE_DEVICES": "hides or reorders GPUs",
}


@dataclass(frozen=True)
class Found:
    """One package as it is here."""

    name: str
    version: str | None  # None where it is not installed
    works: bool
    facts: Mapping[str, Any] = field(default_factory=dict)  # of `probe.py`
    error: str = ""  # the last line of what it said
    said: str = ""  # all of it

    @property
    def broken(self) -> bool:
        """Whether the product needs it and has to do without."""
        return not self.works and self.name in list_required()


def list_required() -> list[str]:
    """Packages without which compress does not work."""
    return list(dict.fromkeys((*runtimes.list_packages(optional=False), *ALWAYS)))


def probe(names: Iterable[str] | None = None) -> dict[str, Found]:
    """Imports packages side by side; all that compress and its engines need by default."""
    required = list_required()
    names = (*required, *runtimes.list_packages(optional=True)) if names is None else names
    folders = [*(entry or os.getcwd() for entry in sys.path), str(SOURCE)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    started = {
        name: subprocess.Popen(
            [sys.executable, "-P", "-m", "compress.doctor.probe", name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment | _variables_of(name),
        )
        for name in names
        if name in required or version(name)
    }
    return {name: _found(name, process) for name, process in started.items()}


def _variables_of(package: str) -> dict[str, str]:
    """Of a process that imports a package."""
    of_runtimes = [runtime.environment for runtime in runtimes.describe_all() if package in runtime.packages]
    return {name: value for each in of_runtimes for name, value in each.items()}


def _found(name: str, process: subprocess.Popen[str]) -> Found:
    try:
        out, said = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Found(name, version(name), works=False, error=f"importing it takes longer than {PATIENCE_S:.0f} s")
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
    if process.returncode < 0:
        last = f"importing it ends the process with signal {-process.returncode}"
    if process.returncode:
        return Found(name, version(name), works=False, error=last, said=said)
    return Found(name, version(name), works=True, facts=json.loads(out.splitlines()[-1]), said=said)


def version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def rows(found: Mapping[str, Found]) -> list[tuple[str, str, str, str]]:
    """(engine, version, whether it works, what it offers or why not)."""
    lines = []
    for each in found.values():
        what = each.facts.get("detail", "") if each.works else each.error
        lines.append((each.name, each.version or "", "yes" if each.works else "no", what))
        if each.name == "torch" and each.works:
            compiler = each.facts.get("compiler")
            what = f"C++ compiler: {compiler}" if compiler else "no C++ compiler found; install g++ to use it on a CPU"
            lines.append(("torch.compile", each.version or "", "yes" if compiler else "no", what))
    for runtime in runtimes.describe_all():
        if runtime.extra and (missing := set(runtime.packages) - found.keys()):
            hint = f"not installed; it is optional: pip install 'compress-vit[{runtime.extra}]'"
            lines += [(name, "", "no", hint) for name in sorted(missing) if name not in {line[0] for line in lines}]
    return lines


def repairs(found: Mapping[str, Found]) -> list[str]:
    """What is broken, and the command that puts it right."""
    sentences = []
    for each in found.values():
        if each.works:
            continue
        missing = each.error.partition("No module named ")[2].strip("'")
        if each.version is not None and missing in (*list_required(), *runtimes.list_packages()):
            sentences.append(f"{each.name} needs {missing}; run: pip install '{_wanted(missing)}'")
        elif each.version is None:
            sentences.append(f"{each.name} is not installed; run: pip install '{_wanted(each.name)}'")
        elif each.name == "torchvision" and found.get("torch", each).works:
            sentences.append(_unfitting(each))
        else:
            command = f"pip install --force-reinstall --no-deps {each.name}=={each.version}"
            sentences.append(f"{each.name} {each.version} cannot be imported ({each.error}); run: {command}")
    return sentences


def _unfitting(vision: Found) -> str:
    """torchvision's compiled part fits one build of torch only."""
    from packaging.requirements import Requirement

    ours = version("torch") or ""
    pins = [each for each in map(Requirement, metadata.requires("torchvision") or []) if each.name == "torch"]
    start = f"torchvision {vision.version} does not fit torch {ours} ({vision.error}):"
    if pins and not pins[0].specifier.contains(ours, prereleases=True):
        pair = f"'{_wanted('torch')}' '{_wanted('torchvision')}'"
        return f"{start} it is made for torch{pins[0].specifier}; run: pip install --force-reinstall {pair}"
    release = (vision.version or "").split("+")[0]
    build = ours.partition("+")[2]
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    return f"{start} they are builds of different kinds; run: " + (
        f"pip install --force-reinstall --no-deps torchvision=={release}{index}"
    )


def _wanted(name: str) -> str:
    """The requirement of this package on another, such as `torch>=2.11,<2.15`."""
    return next((f"{each.name}{each.specifier}" for each in _requirements() if each.name == name), name)


def unsuitable_versions() -> list[str]:
    """Installed packages outside the ranges that this package declares."""
    sentences = []
    for each in _requirements():
        here = version(each.name)
        if here and not each.specifier.contains(here, prereleases=True):
            command = f"pip install '{each.name}{each.specifier}'"
            sentences.append(f"{each.name} {here} is outside {each.specifier}, which compress asks for; run: {command}")
    return sentences


def _requirements() -> list[Any]:
    """What this package declares, the optional engines included; nothing where it runs from its source tree alone."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(line) for line in metadata.requires("compress-vit") or []]
    except metadata.PackageNotFoundError:
        return []
    extras = {"", *(runtime.extra for runtime in runtimes.describe_all() if runtime.extra)}
    return [each for each in declared if not each.marker or any(each.marker.evaluate({"extra": x}) for x in extras)]


def settings(environment: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(variable, value, what it does) of the variables that change timings."""
    own = ("GOMP_SPINCOUNT", "10000")  # of `limit_spinning`, which every command of this package calls
    found = [(name, environment[name], meaning) for name, meaning in SETTINGS.items() if name in environment]
    return [row for row in found if row[:2] != own]
