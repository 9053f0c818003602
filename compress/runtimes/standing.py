"""The standing reference: a fixed amount of arithmetic that every evaluation times beside its artifacts.

    python -m compress.runtimes.standing DEVICE

A latency divided by that of the reference, both from the same rounds, does not depend on how fast the machine is today;
so runs of different days can be compared. Matrix products alone would not do: what other programs take from the memory
bandwidth slows models down as well. So it also passes over more values than a cache holds.
"""

import sys
from functools import partial
from typing import Any

import numpy as np

from compress.measure.environment import cpu_name
from compress.runtimes.base import Inspection, Session
from compress.runtimes.client import Worker
from compress.runtimes.server import serve

SIDE = 512  # of square matrices
PRODUCTS = 4
PASSED = 2**22  # float32 values, 16 MB


class StandingSession(Session):
    """Takes no images, and gives one sum."""

    def __init__(self, device: str):
        self.device = device
        generator = np.random.default_rng(0)
        self.matrix: Any = generator.standard_normal((SIDE, SIDE), dtype=np.float32) / SIDE**0.5
        self.values: Any = generator.standard_normal(PASSED, dtype=np.float32)
        self.device_name = cpu_name()
        if device == "cuda":
            import torch

            self.matrix, self.values = (torch.from_numpy(each).cuda() for each in (self.matrix, self.values))
            self.device_name = torch.cuda.get_device_name()

    def put(self, images: np.ndarray) -> None:
        return None

    def run(self, images: Any) -> float:
        product = self.matrix
        for _ in range(PRODUCTS):
            product = product @ self.matrix
        return float(product[0, 0]) + float((self.values * 2).sum())  # reading a number waits for the device

    def get(self, logits: Any) -> np.ndarray:
        return np.array([[logits]], dtype=np.float32)


def start_standing(device: str, threads: int) -> Worker:
    """A worker that runs the reference under the name `batches`."""
    worker = Worker([sys.executable, "-m", "compress.runtimes.standing", device], threads)
    worker.put("batches", [np.zeros(1, np.float32)])
    return worker


def main(device: str) -> None:
    serve(lambda: partial(StandingSession, device), lambda: Inspection("fp32"))


if __name__ == "__main__":
    main(*sys.argv[1:])
