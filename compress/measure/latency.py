"""Wall time of several models, measured in turns so that a drifting machine treats them alike.

A round visits every contestant once, in random order, with the same batches of real images. A comparison ends when it
is precise enough: the ratio to its baseline, round by round, has a 95 % interval of at most ± `precision`.
"""

import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from compress.measure.statistics import median_interval

TURN_S = 0.03  # calls of one turn fill about this long
MAX_CALLS = 25  # in one turn
MIN_ROUNDS = 15  # before an interval is believed
MIN_SPAN_S = 5.0  # ... and so long, that what comes and goes in a second or two has been seen several times
CHECK_EVERY = 5  # rounds
LEAVE_EVERY = 2  # rounds
PROCESS_SPREAD = 0.01  # 95 % of the ratios of two processes that run the same file lie this close to 1 (docs/log.md)

Timer = Callable[[int, int, int], list[float]]
"""(first, calls, uncounted) -> seconds of each of `calls` forward passes, of batches number `first` and on."""


@dataclass
class Timing:
    """Samples of one contestant by round, in seconds."""

    turns: dict[int, list[float]] = field(default_factory=dict)
    calls: int = 0  # of a turn
    failed: str | None = None  # why there are no more

    @property
    def samples(self) -> list[float]:
        return [sample for turn in self.turns.values() for sample in turn]

    @contextmanager
    def noting_failure(self) -> Iterator[None]:
        """A RuntimeError becomes the reason why there are no more samples."""
        try:
            yield
        except RuntimeError as error:
            self.failed = str(error)


Leave = Callable[[Mapping[str, Timing]], Collection[str]]
"""timings so far, by name -> names of those that need not be timed any longer."""


def interleave(
    contestants: Mapping[str, Timer],
    *,
    budget_s: float,
    comparisons: Collection[tuple[str, str]] = (),
    precision: float | None = None,
    min_rounds: int = MIN_ROUNDS,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    timings: Mapping[str, Timing] | None = None,
    leave: Leave | None = None,
) -> dict[str, Timing]:
    """Times all contestants; one that raises RuntimeError leaves with the reason, the others go on.

    Args:
        contestants: by name. The first call of a turn is not counted.
        budget_s: measuring ends after about this long, but not before `min_rounds`.
        comparisons: (baseline, other) by name, to which `precision` applies.
        precision: half the width of its interval, as a share of the ratio, at which a comparison ends. Without it, or
            without comparisons, the budget is used up.
        timings: of an earlier call, which go on; contestants that are not among them begin now.
        leave: is asked after every few rounds who need not be timed any longer.
    """
    chance = random.Random(seed)
    timings = {name: (timings or {}).get(name, Timing()) for name in contestants}
    for name, run in contestants.items():
        with timings[name].noting_failure():
            timings[name].calls = _count_calls(run)
    active = {name for name, timing in timings.items() if not timing.failed}
    first = 1 + max((round_ for timing in timings.values() for round_ in timing.turns), default=-1)
    started, round_ = clock(), first
    while active and (round_ - first < min_rounds or clock() - started < budget_s):
        order = sorted(active)
        chance.shuffle(order)
        for name in order:
            timing = timings[name]
            with timing.noting_failure():
                timing.turns[round_] = contestants[name](round_ * MAX_CALLS + 1, timing.calls, 1)
        round_ += 1
        active = {name for name in active if not timings[name].failed}
        done = round_ - first
        if leave is not None and done % LEAVE_EVERY == 0:
            active -= set(leave(timings))
        due = done >= min_rounds and (done - min_rounds) % CHECK_EVERY == 0 and clock() - started >= MIN_SPAN_S
        if precision is not None and comparisons and due:
            active &= _imprecise(timings, [pair for pair in comparisons if pair[1] in active], precision)
    return timings


def speedup(baseline: Timing, other: Timing) -> tuple[float, float, float] | None:
    """Median over common rounds of baseline time / other time, with its 95 % interval; None where none is common.

    A turn counts with its median: one call that another program interrupted says nothing about the model. The
    interval of the rounds (bootstrap) is widened by what processes differ that run one and the same file, which more
    rounds do not take away.
    """
    common = sorted(baseline.turns.keys() & other.turns.keys())
    ratios = [statistics.median(baseline.turns[r]) / statistics.median(other.turns[r]) for r in common]
    if not ratios:
        return None
    middle, low, high = median_interval(ratios)
    between = PROCESS_SPREAD * middle
    return middle, middle - math.hypot(middle - low, between), middle + math.hypot(high - middle, between)


def warnings(timing: Timing) -> list[str]:
    """What makes these samples worth less, in words."""
    if len(timing.samples) < 2:
        return []
    middle = statistics.median(timing.samples)
    quartiles = statistics.quantiles(timing.samples, n=4)
    found = []
    if middle < 1e-3:
        found.append("one forward pass takes less than 1 ms: the call itself and the clock are a part of it")
    spread = (quartiles[2] - quartiles[0]) / middle
    if spread > 0.25:
        found.append(f"noisy: the middle half of the latencies spans {spread:.0%} of the median")
    turns = list(timing.turns.values())
    half = max(len(turns) // 2, 1)
    first, second = (statistics.median(itertools.chain(*part)) for part in (turns[:half], turns[-half:]))
    drift = second / first - 1
    if abs(drift) > 0.15:
        found.append(f"drifting: the second half of the run was {abs(drift):.0%} {'slower' if drift > 0 else 'faster'}")
    return found


def _imprecise(timings: Mapping[str, Timing], comparisons: Collection[tuple[str, str]], precision: float) -> set[str]:
    """Contestants with a comparison that is not precise enough yet."""
    found: set[str] = set()
    for pair in comparisons:
        reference, other = (timings[name] for name in pair)
        ratio = None if reference.failed or other.failed else speedup(reference, other)
        if ratio and (ratio[2] - ratio[1]) / 2 > precision * ratio[0]:
            found |= {*pair}
    return found


def _count_calls(run: Timer) -> int:
    """Warms up, and finds how many calls fill a turn.

    An odd number: half of all medians of an odd number of samples lie below the true median, however skewed the noise
    is, so contestants with turns of different length are treated alike.
    """
    fitting = TURN_S / max(min(run(2, 3, 2)), 1e-6)
    return min(2 * max(round((fitting - 1) / 2), 0) + 1, MAX_CALLS)
