"""The machine a row comes from. Needs no torch."""

import contextlib
import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from baselines.cpu import cpu_flags
from compress import __version__
from compress.measure.limits import ROOT, cpu_quota, read_text

REPORTED_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # how OpenMP threads wait
PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "numpy")


def capture(device: str, threads: int, packages: Iterable[str] = ()) -> dict[str, Any]:
    """Versions, processor, instruction sets, load, commit and time of day.

    Args:
        packages: whose versions are told too, such as those of the engines.
    """
    facts: dict[str, Any] = {
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {
            "compress": __version__,
            **{name: _version(name) for name in dict.fromkeys((*PACKAGES, *packages))},
        },
        "cpu": cpu_name(),
        "cpu_count": available_cpus(),
        "cpu_flags": [flag for flag in REPORTED_FLAGS if flag in cpu_flags()],
        "threads": threads,
        "openmp_waiting": {name: os.environ[name] for name in WAITING if name in os.environ},
        "load_average_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "commit": find_commit(),
    }
    if device == "cuda":
        import torch

        facts["gpu"] = torch.cuda.get_device_name()
        facts["cuda"] = torch.version.cuda
    return facts


def name_gpu(facts: Mapping[str, Any]) -> list[str]:
    """What keys of measurements hold beside the processor: the GPU, where `facts` of `capture` are of one."""
    return [facts["gpu"]] if "gpu" in facts else []


def available_cpus(root: Path = ROOT) -> int:
    """Processors this process may use: those it may run on, and no more than its control groups grant time for."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return allowed if quota is None else min(allowed, max(int(quota), 1))


def cpu_name() -> str:
    lines = read_text(ROOT / "proc/cpuinfo").splitlines()  # as py-cpuinfo does, which takes a second for it
    named = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def find_commit() -> str | None:
    """Commit of the source tree this package runs from, with `+` where it was changed since; None outside git."""
    root = Path(__file__).resolve().parents[2]
    try:
        run = [
            subprocess.run(
                ["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            for args in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return run[0].strip() + ("+" if run[1].strip() else "")


def limit_spinning() -> None:
    """Lets waiting OpenMP threads spin for microseconds only, then sleep. To be called before torch is loaded.

    Threads that spin hold the processors that other work needs, and made one and the same ViT 100 times slower on a
    busy machine. Threads that sleep at once cost half as much again at batch 1 on a quiet one (docs/log.md). The
    environment is the only thing that libgomp reads, once, and this very process trains with it.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = "10000"


def configure_allocator() -> bool:
    """Tells glibc to keep freed memory instead of handing it back after every operation.

    Without it each large temporary is mapped afresh, and the page faults made one and the same ViT take 25 or 34 ms,
    at random (docs/log.md). Returns whether there was a glibc to tell.
    """
    if sys.platform != "linux":
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        mmap_threshold, trim_threshold = -3, -1
        return bool(libc.mallopt(mmap_threshold, 1 << 30) and libc.mallopt(trim_threshold, 2**31 - 1))
    except (OSError, AttributeError):
        return False


def release_freed_memory() -> None:
    """Returns freed memory to the system where glibc keeps it: large batches leave gaps that the next does not fill."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
