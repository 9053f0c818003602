"""What else the machine did while something was measured: other programs, throttling, other users of a GPU."""

import contextlib
import os
import subprocess
from collections.abc import Collection
from pathlib import Path

import psutil

from compress.measure.limits import count_thermal_events, count_throttled

FOREIGN_SHARE = 0.1  # of all processors; below it is the noise of any system


class Watch:
    """Begins when it is made.

    Args:
        own: process ids whose work is the measurement itself, beside this process.
    """

    def __init__(self, own: Collection[int], device: str):
        self.own, self.device = {os.getpid(), *own}, device
        self.first = Usage(self.own)
        self.stopped, self.hot = count_throttled(), count_thermal_events()

    def warnings(self) -> list[str]:
        """What happened since it began, in words; nothing where the system does not tell."""
        found = []
        if (foreign := Usage(self.own).foreign_share(self.first)) > FOREIGN_SHARE:
            found.append(f"other load: other programs took {foreign:.0%} of the processors meanwhile")
        if (stops := count_throttled() - self.stopped) > 0:
            found.append(f"throttled: the processor quota of this container was used up {stops} times meanwhile")
        if (events := count_thermal_events() - self.hot) > 0:
            found.append(f"throttled: a processor became too hot {events} times meanwhile")
        if self.device == "cuda" and (others := gpu_processes(self.own)):
            found.append(f"other load: the GPU is also used by {', '.join(others)}")
        return found


class Usage:
    """Seconds of processor time since the machine started: of all processors, those idle, and each of our processes."""

    def __init__(self, own: Collection[int]):
        times = psutil.cpu_times()
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted as user time, too
        self.total, self.idle = sum(times) - guests, times.idle + getattr(times, "iowait", 0.0)
        self.own: dict[int, float] = {}
        for process in own:
            with contextlib.suppress(psutil.Error):  # it is gone
                spent = psutil.Process(process).cpu_times()
                self.own[process] = spent.user + spent.system

    def foreign_share(self, before: "Usage") -> float:
        """Share of all processors that others took in between; 0 where no time went by."""
        elapsed = self.total - before.total
        ours = sum(spent - before.own.get(process, 0.0) for process, spent in self.own.items())
        return max(elapsed - (self.idle - before.idle) - ours, 0.0) / elapsed if elapsed > 0 else 0.0


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
