"""Cold start and peak memory, each in a fresh process of its own."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ColdStart:
    load_s: float
    first_call_s: float
    peak_memory_bytes: int


def cold_start(
    runtime: str, artifact: Path, device: str, threads: int, shape: tuple[int, ...], timeout_s: float = 300
) -> ColdStart:
    """Loads and calls an artifact in a new process.

    Args:
        shape: of the input, (B, C, height, width).

    Raises:
        RuntimeError: the process failed; the message ends with its last line.
    """
    command = [sys.executable, "-m", "compress.runtimes.probe", runtime, str(artifact), device, str(threads)]
    done = subprocess.run([*command, *map(str, shape)], capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise RuntimeError(f"loading {artifact.name} in a new process failed: {done.stderr.strip().splitlines()[-1:]}")
    return ColdStart(**json.loads(done.stdout.strip().splitlines()[-1]))
