"""Trainings of one process that take turns, and what the machine's matrix products reach meanwhile."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess

import torch
from rich.console import Console

from compress.measure import latency

PEAK_S = 0.3  # of matrix products in every round, for each precision
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Contestant:
    """A training that goes on whenever it has a turn."""

    precision: str
    steps: Iterator[int]  # trains one batch and gives its number of images
    workers: set[BaseProcess] = field(default_factory=set)
    timing: latency.Timing = field(default_factory=latency.Timing)  # seconds of one image, by round

    def send(self, number: signal.Signals) -> None:
        for worker in self.workers:
            if worker.pid is not None and worker.is_alive():
                os.kill(worker.pid, number)


def race(
    contestants: Mapping[str, Contestant],
    device: torch.device,
    seconds: float,
    rounds: int,
    types: Mapping[str, torch.dtype] = TYPES,
) -> dict[str, float]:
    """Gives everybody a turn in each round, in random order.

    A contestant that raises RuntimeError at its start leaves with the reason, the others go on.

    Returns:
        FLOP/s of the fastest large square matrix product in each of the precisions `types`.
    """
    console, chance = Console(stderr=True), random.Random(0)
    try:
        for name, contestant in contestants.items():
            console.print(f"starts {name}")
            start(contestant)
        peaks = dict.fromkeys(types, 0.0)
        for round_ in range(rounds):
            console.print(f"round {round_ + 1} of {rounds}")
            peaks = {name: max(peak, product_rate(types[name], device)) for name, peak in peaks.items()}
            for name in chance.sample(list(contestants), len(contestants)):
                if not contestants[name].timing.failed:
                    contestants[name].timing.turns[round_] = [turn(contestants[name], seconds, device)]
        return peaks
    finally:
        for contestant in contestants.values():
            contestant.send(signal.SIGCONT)  # a stopped process would never hear that it should end


def start(contestant: Contestant) -> None:
    """Two steps, in which models are made, compiled, and loaders started."""
    before = set(multiprocessing.active_children())
    try:
        for _ in range(2):
            next(contestant.steps)
    except RuntimeError as error:  # such as a compiler that is not there
        contestant.timing.failed = str(error).strip().splitlines()[0]
    contestant.workers = set(multiprocessing.active_children()) - before
    contestant.send(signal.SIGSTOP)


def turn(contestant: Contestant, seconds: float, device: torch.device) -> float:
    """Seconds of one image. The first step is not counted: its caches are those of another."""
    contestant.send(signal.SIGCONT)
    next(contestant.steps)
    wait(device)
    images, started = 0, time.perf_counter()
    while images == 0 or time.perf_counter() - started < seconds:
        images += next(contestant.steps)
    wait(device)
    spent = time.perf_counter() - started
    contestant.send(signal.SIGSTOP)
    return spent / images


def product_rate(number_type: torch.dtype, device: torch.device) -> float:
    """FLOP/s of the fastest of some large square matrix products."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(number_type) for _ in range(2))
    best, until = float("inf"), time.perf_counter() + PEAK_S
    while best == float("inf") or time.perf_counter() < until:
        wait(device)
        started = time.perf_counter()
        torch.mm(a, b)
        wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
