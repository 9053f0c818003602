"""A worker whose time is known: it sleeps, or does a known amount of work.

    python benchmarks/known.py sleep|work AMOUNT cpu|cuda

Needs no torch on a CPU.
"""

import sys
import time
from functools import partial
from typing import Any

import numpy as np

from compress.runtimes.base import Inspection, Session
from compress.runtimes.server import serve

SIDES = {"cpu": 192, "cuda": 1024}  # of the square matrices: on a GPU so large that launching takes less than working


class Known(Session):
    """Sleeps for `amount` seconds, or multiplies matrices `amount` times."""

    device_name = "known"

    def __init__(self, kind: str, amount: float, device: str):
        self.kind, self.amount, self.device = kind, amount, device
        side = SIDES[device]
        self.matrix: Any = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
        if device == "cuda":
            import torch

            self.matrix = torch.from_numpy(self.matrix).cuda()

    def put(self, images: np.ndarray) -> np.ndarray:
        return images

    def run(self, images: np.ndarray) -> np.ndarray:
        if self.kind == "sleep":
            time.sleep(self.amount)
            return images
        product = self.matrix
        for _ in range(round(self.amount)):
            product = self.matrix @ self.matrix
        if self.device == "cuda":
            product[0, 0].item()  # waits for the device
        return images

    def get(self, logits: np.ndarray) -> np.ndarray:
        return logits


def main(kind: str, amount: str, device: str) -> None:
    serve(lambda: partial(Known, kind, float(amount), device), lambda: Inspection("fp32"))


if __name__ == "__main__":
    main(*sys.argv[1:])
