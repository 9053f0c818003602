"""Loads one artifact in a fresh process and says what that cost.

    python -m compress.runtimes.probe RUNTIME ARTIFACT DEVICE THREADS BATCH_SIZE CHANNELS HEIGHT WIDTH

Prints one line of JSON: `load_s` and `first_call_s` (imports excluded), `peak_memory_bytes`.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from compress import runtimes
from compress.measure.environment import share_processors


def main(argv: list[str]) -> None:
    share_processors()
    runtime, artifact, device = runtimes.get(argv[0]), Path(argv[1]), argv[2]
    threads, *shape = (int(number) for number in argv[3:])
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    started = time.perf_counter()
    session = runtime.load(artifact, device, threads)
    loaded = time.perf_counter()
    native = session.put(images)
    session.run(native)
    first = time.perf_counter()
    for _ in range(3):
        session.run(native)
    print(
        json.dumps(
            {
                "load_s": loaded - started,
                "first_call_s": first - loaded,
                "peak_memory_bytes": session.peak_memory_bytes() or peak_resident_bytes(),
            }
        )
    )


def peak_resident_bytes() -> int:
    """Most memory this process held. Linux's `ru_maxrss` would begin with the parent's: it survives `exec`."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(sys.argv[1:])
