"""The processor, its limits, memory and load, as the system tells them. What it does not tell is left out."""

import os
from pathlib import Path

import psutil

from baselines.cpu import cpu_flags
from compress.measure import limits
from compress.measure.environment import available_cpus, cpu_name
from compress.measure.limits import ROOT

FASTER_INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
X86 = (
    ("avx2", "AVX2", "8 float32 at a time; an int8 product takes three instructions and gains little without VNNI"),
    ("avx512f", "AVX-512", "16 float32 at a time; the same holds for int8"),
    (
        "avx512_vnni",
        "AVX-512 VNNI",
        "int8: one instruction does four times the products of float32: at most 4x",
    ),
    ("avx_vnni", "AVX-VNNI", "int8: the same on vectors of half the width"),
    ("avx512_bf16", "AVX-512 BF16", "bf16: twice the products of float32: at most 2x"),
    ("amx_bf16", "AMX-bf16", "bf16: whole tiles at a time; the baseline that int8 has to beat"),
    ("amx_int8", "AMX-int8", "int8: whole tiles at a time, up to twice as fast as AMX-bf16"),
)
ARM = (
    ("asimddp", "dotprod", "int8: one instruction does four times the products of float32: at most 4x"),
    ("i8mm", "i8mm", "int8: small matrices at a time, up to twice as fast as dotprod"),
    ("bf16", "bf16", "bf16: more products at a time than float32, where the engine uses it"),
)


def flags(root: Path = ROOT) -> frozenset[str]:
    """Instruction sets of this processor, as Linux names them on x86 and ARM; empty where it does not."""
    lines = limits.read_text(root / "proc/cpuinfo").splitlines()
    named = (frozenset(line.split(":", 1)[1].split()) for line in lines if line.startswith("Features"))
    return cpu_flags() if root == ROOT and cpu_flags() else next(named, frozenset())


def instructions(known: frozenset[str]) -> list[tuple[str, str, str]]:
    """(instruction set, yes or no, what follows for int8 and bf16)."""
    sets = ARM if "asimd" in known else X86 if known else ()
    rows = [(label, "yes" if flag in known else "no", meaning) for flag, label, meaning in sets]
    if known and not known & FASTER_INT8:
        rows.append(("together", "", "int8 makes files smaller here, and hardly anything faster"))
    return rows


def processor(root: Path = ROOT) -> list[tuple[str, str]]:
    """What the process may use of it, and what slows it down."""
    usable, all_ = available_cpus(root), os.cpu_count() or 1
    rows = [("processor", cpu_name()), ("processors", f"{usable} of {all_} may be used by this process")]
    if (quota := limits.cpu_quota(root)) is not None:
        rows.append(("quota of the container", f"{quota:g} processors; more threads are stopped in between"))
    if stops := limits.count_throttled(root):
        rows.append(("stopped by the quota", f"{stops} times so far: timings of that time are too long"))
    paths = limits.find_cpu_files("cpufreq/scaling_governor", root)
    if governors := sorted({limits.read_text(path) for path in paths} - {""}):
        meaning = "" if governors == ["performance"] else ": the clock follows the load, so short timings vary"
        rows.append(("frequency governor", ", ".join(governors) + meaning))
    if hot := limits.count_thermal_events(root):
        rows.append(("slowed by heat", f"{hot} times since the machine started"))
    return [*rows, ("load", load(psutil.getloadavg()[0], all_))]


def load(average: float, processors: int) -> str:
    """What a load average over one minute means for timings."""
    if average >= max(0.5, processors / 10):
        return f"{average:.2f} over the last minute: the machine is busy, timings will be noisy"
    return f"{average:.2f} over the last minute: the machine is quiet"


def memory(root: Path = ROOT) -> list[tuple[str, str]]:
    here = psutil.virtual_memory()
    rows = [("memory", f"{here.total / 1e9:.1f} GB, {here.available / 1e9:.1f} GB free")]
    limit = limits.memory_limit(root)
    if limit is not None and limit < here.total:
        rows.append(("memory of the container", f"at most {limit / 1e9:.1f} GB"))
    return rows
