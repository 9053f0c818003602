"""The processor, its limits, memory and load, as the system tells them. What it does not tell is left out."""

import os
from collections.abc import Iterator
from pathlib import Path

from baselines.cpu import cpu_flags
from compress.measure.environment import available_cpus, cpu_name

ROOT = Path("/")
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
    lines = _lines(root / "proc/cpuinfo")
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
    usable, all_ = available_cpus(), os.cpu_count() or 1
    rows = [("processor", cpu_name()), ("processors", f"{usable} of {all_} may be used by this process")]
    if (quota := cpu_quota(root)) is not None:
        meaning = f"; use --threads {max(int(quota), 1)}, more are stopped in between" if quota < usable else ""
        rows.append(("quota of the container", f"{quota:g} processors{meaning}"))
    if stops := _largest(_cgroup_files("cpu", "cpu.stat", root), "nr_throttled"):
        rows.append(("stopped by the quota", f"{stops} times so far: timings of that time are too long"))
    if governors := sorted({_text(path) for path in _cpus(root, "cpufreq/scaling_governor")} - {""}):
        meaning = "" if governors == ["performance"] else ": the clock follows the load, so short timings vary"
        rows.append(("frequency governor", ", ".join(governors) + meaning))
    counts = [_text(path) for path in _cpus(root, "thermal_throttle/core_throttle_count")]
    if hot := sum(int(count) for count in counts if count.isdecimal()):
        rows.append(("slowed by heat", f"{hot} times since the machine started"))
    if hasattr(os, "getloadavg"):
        rows.append(("load", load(os.getloadavg()[0], all_)))
    return rows


def load(average: float, processors: int) -> str:
    """What a load average over one minute means for timings."""
    if average >= max(0.5, processors / 10):
        return f"{average:.2f} over the last minute: the machine is busy, timings will be noisy"
    return f"{average:.2f} over the last minute: the machine is quiet"


def memory(root: Path = ROOT) -> list[tuple[str, str]]:
    facts = dict(line.split(":", 1) for line in _lines(root / "proc/meminfo") if ":" in line)
    sizes = {name: int(value.split()[0]) * 1024 for name, value in facts.items() if value.split()[:1]}
    if not {"MemTotal", "MemAvailable"} <= sizes.keys():
        return []
    rows = [("memory", f"{sizes['MemTotal'] / 1e9:.1f} GB, {sizes['MemAvailable'] / 1e9:.1f} GB free")]
    limit = memory_limit(root)
    if limit is not None and limit < sizes["MemTotal"]:
        rows.append(("memory of the container", f"at most {limit / 1e9:.1f} GB"))
    return rows


def cpu_quota(root: Path = ROOT) -> float | None:
    """Processors' worth of time that the control groups of this process grant; None without a limit."""
    quotas = [_text(path).split() for path in _cgroup_files("cpu", "cpu.max", root)]  # version 2
    for path in _cgroup_files("cpu", "cpu.cfs_quota_us", root):  # version 1
        quotas.append([_text(path), _text(path.with_name("cpu.cfs_period_us"))])
    pairs = [pair for pair in quotas if len(pair) == 2 and all(part.isdecimal() for part in pair)]
    return min((int(quota) / int(period) for quota, period in pairs if int(period)), default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes that the control groups of this process grant; None without a limit."""
    paths = [*_cgroup_files("memory", "memory.max", root), *_cgroup_files("memory", "memory.limit_in_bytes", root)]
    return min((int(text) for text in map(_text, paths) if text.isdecimal()), default=None)


def _cgroup_files(controller: str, name: str, root: Path) -> Iterator[Path]:
    """The files of that name in the control groups of this process and all above it, versions 1 and 2."""
    mount = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, place = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for base in (mount / controllers, mount / controller) if controllers else (mount, mount / "unified"):
            inside = Path(place.lstrip("/"))
            for folder in dict.fromkeys((inside, *inside.parents)):
                if ".." not in folder.parts and (path := base / folder / name).is_file():
                    yield path


def _largest(paths: Iterator[Path], key: str) -> int:
    values = [line.split() for path in paths for line in _lines(path)]
    return max((int(pair[1]) for pair in values if pair[0] == key and pair[1].isdecimal()), default=0)


def _cpus(root: Path, name: str) -> list[Path]:
    return sorted((root / "sys/devices/system/cpu").glob(f"cpu[0-9]*/{name}"))


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
