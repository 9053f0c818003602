"""What limits this process: control groups of Linux (versions 1 and 2), of which psutil knows nothing, and heat."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def cpu_quota(root: Path = ROOT) -> float | None:
    """Processors' worth of time that the control groups of this process grant; None without a limit."""
    quotas = [read_text(path).split() for path in _find_files("cpu", "cpu.max", root)]  # version 2
    for path in _find_files("cpu", "cpu.cfs_quota_us", root):  # version 1
        quotas.append([read_text(path), read_text(path.with_name("cpu.cfs_period_us"))])
    pairs = [pair for pair in quotas if len(pair) == 2 and all(part.isdecimal() for part in pair)]
    return min((int(quota) / int(period) for quota, period in pairs if int(period)), default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes that the control groups of this process grant; None without a limit."""
    paths = [*_find_files("memory", "memory.max", root), *_find_files("memory", "memory.limit_in_bytes", root)]
    return min((int(text) for text in map(read_text, paths) if text.isdecimal()), default=None)


def count_throttled(root: Path = ROOT) -> int:
    """How often the quota stopped this process so far."""
    lines = [line.split() for path in _find_files("cpu", "cpu.stat", root) for line in read_text(path).splitlines()]
    return max((int(pair[1]) for pair in lines if pair[0] == "nr_throttled" and pair[1].isdecimal()), default=0)


def count_thermal_events(root: Path = ROOT) -> int:
    """How often a processor became too hot since the machine started."""
    counts = map(read_text, find_cpu_files("thermal_throttle/core_throttle_count", root))
    return sum(int(count) for count in counts if count.isdecimal())


def find_cpu_files(name: str, root: Path = ROOT) -> list[Path]:
    """The file of that name of every processor."""
    return sorted((root / "sys/devices/system/cpu").glob(f"cpu[0-9]*/{name}"))


def read_text(path: Path) -> str:
    """Empty where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _find_files(controller: str, name: str, root: Path) -> Iterator[Path]:
    """The files of that name in the control groups of this process and all above it."""
    mount = root / "sys/fs/cgroup"
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for base in (mount / controllers, mount / controller) if controllers else (mount, mount / "unified"):
            inside = Path(place.lstrip("/"))
            for folder in dict.fromkeys((inside, *inside.parents)):
                if ".." not in folder.parts and (path := base / folder / name).is_file():
                    yield path
