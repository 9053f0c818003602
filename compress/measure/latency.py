"""Wall time of several models, measured in turns so that a drifting machine treats them alike.

A round visits every contestant once, in random order, with the same batches of real images. In a turn the
first call is not counted: it finds the caches full of somebody else's weights.
"""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from compress.measure.statistics import median_interval

TURN_S = 0.03  # calls of one turn fill about this long
MAX_CALLS = 25  # in one turn


@dataclass
class Timing:
    """Samples of one contestant: `turns[r]` holds the calls of round r, in seconds."""

    turns: list[list[float]] = field(default_factory=list)

    @property
    def samples(self) -> list[float]:
        return [sample for turn in self.turns for sample in turn]


def interleave(
    contestants: Mapping[str, Callable[[int], object]],
    *,
    budget_s: float,
    min_rounds: int = 15,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Times all contestants.

    Args:
        contestants: by name, a function that runs the batch of the given number to its end.
        budget_s: measuring goes on for about this long, and for `min_rounds` at least.
        clock: seconds; tests give their own.
    """
    order, chance = list(contestants), random.Random(seed)
    calls = {name: _calls_per_turn(contestants[name], clock) for name in order}
    timings = {name: Timing() for name in order}
    started, round_ = clock(), 0
    while round_ < min_rounds or clock() - started < budget_s:
        chance.shuffle(order)
        for name in order:
            run, turn = contestants[name], []
            run(round_ * MAX_CALLS - 1)
            for call in range(calls[name]):
                before = clock()
                run(round_ * MAX_CALLS + call)
                turn.append(clock() - before)
            timings[name].turns.append(turn)
        round_ += 1
    return timings


def speedup(baseline: Timing, other: Timing) -> tuple[float, float, float]:
    """Median over rounds of baseline time / other time, with its 95 % interval."""
    pairs = zip(baseline.turns, other.turns, strict=True)
    return median_interval([statistics.mean(ours) / statistics.mean(theirs) for ours, theirs in pairs])


def warnings(timing: Timing) -> list[str]:
    """What makes these samples worth less, in words."""
    samples = sorted(timing.samples)
    middle = statistics.median(samples)
    quartiles = statistics.quantiles(samples, n=4)
    found = []
    spread = (quartiles[2] - quartiles[0]) / middle
    if spread > 0.25:
        found.append(f"noisy: the middle half of the latencies spans {spread:.0%} of the median")
    first, second = (statistics.median([s for turn in part for s in turn]) for part in _halves(timing.turns))
    drift = second / first - 1
    if abs(drift) > 0.15:
        found.append(f"drifting: the second half of the run was {abs(drift):.0%} {'slower' if drift > 0 else 'faster'}")
    return found


def _halves(turns: list[list[float]]) -> tuple[list[list[float]], list[list[float]]]:
    middle = max(len(turns) // 2, 1)
    return turns[:middle], turns[-middle:]


def _calls_per_turn(run: Callable[[int], object], clock: Callable[[], float]) -> int:
    """Warms up, and finds how many calls fill a turn."""
    times = []
    for index in range(5):
        before = clock()
        run(index)
        times.append(clock() - before)
    return max(1, min(MAX_CALLS, round(TURN_S / max(min(times), 1e-6))))
