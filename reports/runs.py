"""Runs of the same measurements, matched row by row: what is slower, faster, better, worse, gone or new.

Two runs are independent: nothing about them is paired. Their absolute times compare only on one machine in one state;
a speed-up, being a ratio within a run, compares further.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from reports.differences import differences
from reports.row import Row
from reports.table import conditions
from reports.text import clean, figure, interval, measured, ratio

ALPHA = 0.05  # a difference in accuracy is called one below this p
RESAMPLES = 1000
NO_DIFFERENCE = "no clear difference"
Times = tuple[float, float | None, float | None]  # a ratio with its 95 % interval


@dataclass(frozen=True)
class Change:
    """One row, and the same of the reference."""

    old: Row
    new: Row
    latency: Times | None  # new / old; None on another machine, or where one was not timed
    accuracy_p: float | None  # of a difference as large as this where there is none

    @property
    def time(self) -> str:
        """`slower`, `faster`, or that nothing is clear; empty where unknown."""
        return _verdict(self.latency, "slower", "faster")

    @property
    def accuracy(self) -> str:
        """`better`, `worse`, or that nothing is clear; empty where unknown."""
        if self.accuracy_p is None or self.old.top1 is None or self.new.top1 is None:
            return ""
        if self.accuracy_p >= ALPHA:
            return NO_DIFFERENCE
        return "better" if self.new.top1 > self.old.top1 else "worse"

    @property
    def speedup(self) -> Times | None:
        """Speed-up over the dense baseline, new / old; intervals are combined as if errors were log-normal."""
        new, old = measured(self.new.speedup), measured(self.old.speedup)
        if not new or not old or self.new.dense:
            return None
        ends = [measured(end) for row in (self.old, self.new) for end in (row.speedup_low, row.speedup_high)]
        if not all(ends):
            return new / old, None, None
        logs = [math.log(end) for end in ends if end]
        half = math.hypot(logs[1] - logs[0], logs[3] - logs[2]) / 2
        return new / old, new / old * math.exp(-half), new / old * math.exp(half)

    @property
    def speed(self) -> str:
        """What became of the speed-up: `better`, `worse`, or that nothing is clear; empty where unknown."""
        return _verdict(self.speedup, "better", "worse")


@dataclass(frozen=True)
class Against:
    """One run beside the reference."""

    run: str
    changes: list[Change]
    gone: list[Row]  # only in the reference
    added: list[Row]  # only in this run
    failed: list[Row]  # failed in this run, measured in the reference
    warnings: list[str]  # in words: what else differs


@dataclass(frozen=True)
class Comparison:
    reference: str
    runs: list[Against]


def compare(runs: Mapping[str, list[Row]]) -> Comparison:
    """Every later run against the first.

    Raises:
        ValueError: there are fewer than two runs.
    """
    if len(runs) < 2:
        raise ValueError(f"a comparison needs two runs or more, not {len(runs)}")
    (reference, old), *later = runs.items()
    return Comparison(reference, [_against(old, name, rows) for name, rows in later])


def slower(runs: Mapping[str, list[Row]], share: float) -> list[str]:
    """What got worse from the first to the last run: a sentence for each row that is slower by more than `share`
    (0.05 is 5 %) with the whole of its interval, and for each that was measured before and failed now.

    Raises:
        ValueError: there are fewer than two runs.
    """
    comparison = compare(runs)
    last = comparison.runs[-1]
    found = []
    for change in last.changes:
        if change.latency and (change.latency[1] or 0) > 1 + share:
            times = f"{figure(change.old.latency_s, 1e-3)} -> {figure(change.new.latency_s, 1e-3)} ms"
            found.append(
                f"{named(change.new)}: {times_text(change.latency)} times the latency of {clean(comparison.reference)} "
                f"({times})"
            )
    found += [
        f"{named(row)}: failed, and did not in {clean(comparison.reference)}: {row.failed}" for row in last.failed
    ]
    return [clean(sentence) for sentence in found]


def named(row: Row) -> str:
    """Which row it is, as plain text."""
    return clean(f"{row.variant} in {row.runtime}, {conditions(row, device_name=False)}")


def times_text(times: Times | None) -> str:
    """Three digits where two would hide the difference."""
    if times is None:
        return ""
    return interval(*("" if value is None else f"{value:.3f}" if value < 1.995 else ratio(value) for value in times))


def _verdict(times: Times | None, above: str, below: str) -> str:
    if times is None or times[1] is None or times[2] is None:
        return ""
    return above if times[1] > 1 else below if times[2] < 1 else NO_DIFFERENCE


def _against(old: list[Row], name: str, new: list[Row]) -> Against:
    was, now = [row for row in old if row.failed is None], [row for row in new if row.failed is None]
    pairs = list(_pairs(was, now))
    matched = {id(row) for pair in pairs for row in pair}
    failing = {(row.variant, row.dataset, row.runtime, row.device) for row in old if row.failed is not None}
    known = {(row.variant, row.dataset) for row in was}
    failed = [
        row
        for row in new
        if row.failed is not None
        and (row.variant, row.dataset) in known
        and (row.variant, row.dataset, row.runtime, row.device) not in failing
    ]
    changes = [
        Change(a, b, latency_ratio(a, b) if a.device_name == b.device_name else None, accuracy_p(a, b))
        for a, b in pairs
    ]
    gone, added = ([row for row in rows if id(row) not in matched] for rows in (was, now))
    return Against(name, changes, gone, added, failed, differences(old, new))


def _pairs(old: list[Row], new: list[Row]) -> Iterator[tuple[Row, Row]]:
    """Rows of the same thing under the same conditions: on the same machine if there are such, or else on another;
    with the same seed if there are several."""
    left = list(old)
    for same_machine in (True, False):
        for row in new:
            if same_machine or not any(_key(row, True) == _key(other, True) for other in old):
                found = [other for other in left if _key(other, same_machine) == _key(row, same_machine)]
                alone = sum(_key(other, same_machine) == _key(row, same_machine) for other in new) == len(found) == 1
                match = next((other for other in found if alone or other.seed == row.seed), None)
                if match is not None:
                    left = [other for other in left if other is not match]
                    yield match, row


def _key(row: Row, machine: bool) -> tuple[object, ...]:
    where = (row.device_name,) if machine else ()
    return (row.variant, row.runtime, row.device, row.threads, row.batch_size, row.dataset, *where)


def latency_ratio(old: Row, new: Row) -> Times | None:
    """Ratio of the median latencies, new / old, with a 95 % bootstrap interval.

    Whole rounds are drawn, of each run by itself: samples of one round share the state the machine was in. Of rows
    that do not tell their rounds, samples are drawn. The same rows give the same interval.
    """
    import numpy as np

    if not old.latency_s or not new.latency_s:
        return None
    chance = np.random.default_rng(0)

    def medians(row: Row) -> np.ndarray:
        calls = row.calls_per_round or 1
        samples = np.asarray(row.latency_samples_s)
        if len(samples) < calls:
            calls = 1
        turns = samples[: len(samples) // calls * calls].reshape(-1, calls)  # without a last round that was cut off
        return np.array([np.median(turns[chance.integers(len(turns), size=len(turns))]) for _ in range(RESAMPLES)])

    low, high = np.quantile(medians(new) / medians(old), [0.025, 0.975])
    return new.latency_s / old.latency_s, float(low), float(high)


def accuracy_p(old: Row, new: Row) -> float | None:
    """Two-sided p of two proportions. It takes the test images of two runs for different ones, which errs on the side
    of seeing no difference."""
    from scipy.stats import chi2_contingency

    if old.top1 is None or new.top1 is None or not old.n_images or not new.n_images:
        return None
    right = [round(old.top1 * old.n_images), round(new.top1 * new.n_images)]
    wrong = [old.n_images - right[0], new.n_images - right[1]]
    if not any(right) or not any(wrong):
        return 1.0
    return float(chi2_contingency([right, wrong], correction=False).pvalue)  # type: ignore[attr-defined]
