"""A worker whose session takes known time on a clock of its own, and fails on demand. Not a test.

python tests/fake_worker.py SECONDS [drift=X] [fits=N] [die_after=N] [hang_after=N] [broken=WORDS]
"""

import os
import signal
import sys
import time
from functools import partial

import numpy as np

from compress.runtimes.base import Inspection, Session
from compress.runtimes.server import serve


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeSession(Session):
    device_name = "a fake"

    def __init__(self, clock: Clock, seconds: float, faults: dict[str, str]):
        if "broken" in faults:
            raise RuntimeError(faults["broken"])
        self.clock, self.seconds, self.runs = clock, seconds, 0
        self.drift = float(faults.get("drift", 0))
        self.fits, self.die_after, self.hang_after = (
            int(faults.get(name, 10**9)) for name in ("fits", "die_after", "hang_after")
        )

    def put(self, images: np.ndarray) -> np.ndarray:
        return images

    def run(self, images: np.ndarray) -> np.ndarray:
        print("an engine's chatter")
        if len(images) > self.fits:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.runs += 1
        if self.runs > self.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.runs > self.hang_after:
            time.sleep(600)
        self.clock.now += self.seconds * (1 + self.drift * self.clock.now)
        return images.reshape(len(images), -1)[:, :10]

    def get(self, logits: np.ndarray) -> np.ndarray:
        return logits


if __name__ == "__main__":
    given = dict(part.split("=", 1) for part in sys.argv[2:])
    time_ = Clock()
    engine = partial(FakeSession, time_, float(sys.argv[1]), given)
    serve(lambda: engine, lambda: Inspection("fp32", notes=("made up",)), time_)
