"""What else the machine did while something was measured: other programs, throttling, other users of a GPU."""

import os
import subprocess
from collections.abc import Collection
from pathlib import Path

FOREIGN_SHARE = 0.1  # of all processors; below it is the noise of any system
CGROUP = Path("/sys/fs/cgroup/cpu.stat")


class Watch:
    """Begins when it is made.

    Args:
        own: process ids whose work is the measurement itself, beside this process.
    """

    def __init__(self, own: Collection[int], device: str):
        self.own, self.device = {os.getpid(), *own}, device
        self.total, self.idle = _processor_ticks()
        self.ours = sum(map(_ticks_of, self.own))
        self.stopped, self.hot = _quota_stops(), _thermal_events()

    def warnings(self) -> list[str]:
        """What happened since, in words; nothing where the system does not tell."""
        found = []
        if (foreign := self.foreign_share()) > FOREIGN_SHARE:
            found.append(f"other load: other programs took {foreign:.0%} of the processors meanwhile")
        if (stops := _quota_stops() - self.stopped) > 0:
            found.append(f"throttled: the processor quota of this container was used up {stops} times meanwhile")
        if (events := _thermal_events() - self.hot) > 0:
            found.append(f"throttled: a processor became too hot {events} times meanwhile")
        if self.device == "cuda" and (others := gpu_processes(self.own)):
            found.append(f"other load: the GPU is also used by {', '.join(others)}")
        return found

    def foreign_share(self) -> float:
        """Share of all processors that other programs took since; 0 where the system does not tell."""
        total, idle = _processor_ticks()
        ours = sum(map(_ticks_of, self.own)) - self.ours
        elapsed = total - self.total
        return (elapsed - (idle - self.idle) - ours) / elapsed if elapsed > 0 else 0.0


def gpu_processes(own: Collection[int] = ()) -> list[str]:
    """Programs on the GPUs, as `name (process id)`, without those in `own`; nothing where nvidia-smi does not tell."""
    listed = ask_gpu("--query-compute-apps=pid,process_name")
    pairs = [line.split(",", 1) for line in listed if line.split(",", 1)[0].strip().isdecimal()]
    return [f"{Path(pair[-1].strip()).name} ({pair[0].strip()})" for pair in pairs if int(pair[0]) not in own]


def gpu_name() -> str:
    """Of the first GPU, as nvidia-smi tells it; `CUDA` where it does not."""
    return next(iter(ask_gpu("--query-gpu=name")), "CUDA")


def ask_gpu(query: str) -> list[str]:
    """What nvidia-smi answers, line by line; nothing where there is no such program, or no GPU."""
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listed.splitlines() if line.strip()]


def _processor_ticks() -> tuple[int, int]:
    """(all, idle) ticks of all processors since start; zeros where /proc does not say."""
    try:
        values = [int(part) for part in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return sum(values), values[3] + values[4]  # idle, waiting for a disk


def _ticks_of(process: int) -> int:
    """Ticks that a process has used; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    except (OSError, ValueError, IndexError):
        return 0


def _quota_stops() -> int:
    try:
        lines = dict(line.split() for line in CGROUP.read_text().splitlines())
        return int(lines.get("nr_throttled", 0))
    except (OSError, ValueError):
        return 0


def _thermal_events() -> int:
    found = 0
    for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
        try:
            found += int(path.read_text())
        except (OSError, ValueError):
            continue
    return found
