"""Runs of the same measurements, matched row by row: what is slower, faster, better, worse, gone or new.

Nothing about two runs is paired. A machine that was slower in one of them slowed its standing reference as well, so
latencies relative to that are compared where both runs have them. Every interval holds the variance between runs, and
more where a row says that it was measured under load.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from reports import significance
from reports.differences import differences
from reports.results import describe_conditions
from reports.row import Row
from reports.significance import Accuracy, Ratio, Speed, Z, divide
from reports.text import clean, figure, interval, measured, ratio

# Standard deviations of the logarithm of a ratio of two runs of the same program:
BETWEEN_RUNS = 0.02  # of latencies relative to the standing reference
BETWEEN_RUNS_RAW = 0.05  # of latencies in seconds
UNDER_LOAD = 0.2  # added where either row was disturbed
FEWEST = 6  # rows from which the spread between two runs is estimated
DISTURBED = ("other load", "noisy", "drifting", "throttled")  # how warnings of a disturbed measurement begin
RESAMPLES = 1000


@dataclass(frozen=True)
class Change:
    """One row, and the same of the reference run."""

    old: Row
    new: Row
    latency: Ratio | None = None  # new / old, with all that may differ between runs; None: not to be compared
    relative: bool = False  # whether to the standing reference of each run
    spread: float = BETWEEN_RUNS  # standard deviation between runs, of the logarithm of a ratio within each

    @property
    def disturbed(self) -> bool:
        """Whether either row says that other programs, or heat, had a part in it."""
        return any(warning.startswith(DISTURBED) for row in (self.old, self.new) for warning in row.warnings)

    @property
    def time(self) -> Speed:
        return significance.judge_slowdown(self.latency) if self.latency else ""

    @property
    def accuracy_p(self) -> float | None:
        """It takes the test images of two runs for different ones, which errs on the side of seeing no difference."""
        return significance.compare_proportions(self.old.top1, self.old.n_images, self.new.top1, self.new.n_images)

    @property
    def accuracy(self) -> Accuracy:
        p = self.accuracy_p
        return "" if p is None else significance.judge_accuracy((self.new.top1 or 0) - (self.old.top1 or 0), p)

    @property
    def speedup(self) -> Ratio | None:
        """Speed-up over the dense model in the same engine, new / old."""
        if not measured(self.new.speedup) or not measured(self.old.speedup) or self.new.dense:
            return None
        new, old = ((row.speedup, row.speedup_low, row.speedup_high) for row in (self.new, self.old))
        return divide(new, old, math.hypot(self.spread, UNDER_LOAD * self.disturbed))

    @property
    def speed(self) -> Speed:
        """What became of the speed-up."""
        return significance.judge_speedup(self.speedup) if self.speedup else ""


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
    sentences = []
    for change in last.changes:
        if change.latency and (change.latency[1] or 0) > 1 + share:
            times = f"{figure(change.old.latency_s, 1e-3)} -> {figure(change.new.latency_s, 1e-3)} ms"
            how = ", relative to the standing reference" * change.relative + ", under load" * change.disturbed
            sentences.append(
                f"{describe_row(change.new)}: {exact_times(change.latency)} times the latency of "
                f"{clean(comparison.reference)}{how} ({times})"
            )
    sentences += [
        f"{describe_row(row)}: failed, and did not in {clean(comparison.reference)}: {row.failed}"
        for row in last.failed
    ]
    return [clean(sentence) for sentence in sentences]


def describe_row(row: Row) -> str:
    """Which row it is, as plain text."""
    return clean(f"{row.label} in {row.runtime}, {describe_conditions(row, device_name=False)}")


def exact_times(times: Ratio | None) -> str:
    """Three digits where two would hide the difference."""
    if times is None:
        return ""
    return interval(*("" if value is None else f"{value:.3f}" if value < 1.995 else ratio(value) for value in times))


def _against(old: list[Row], name: str, new: list[Row]) -> Against:
    was, now = [row for row in old if row.completed], [row for row in new if row.completed]
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
    gone, added = ([row for row in rows if id(row) not in matched] for rows in (was, now))
    return Against(name, _changes(pairs), gone, added, failed, differences(old, new))


def _changes(pairs: Sequence[tuple[Row, Row]]) -> list[Change]:
    """With intervals that hold what differs between runs: as much as is known of it, or as these two show."""
    relative = [standing_ratio(old, new) for old, new in pairs]
    seconds = [None if times else latency_ratio(old, new) for (old, new), times in zip(pairs, relative, strict=True)]
    # The standing reference, which all rows share, is taken to differ between runs as much as a row.
    spread = max(BETWEEN_RUNS, math.sqrt(2) * estimate_spread(relative))
    spread_raw = max(BETWEEN_RUNS_RAW, estimate_spread(seconds))
    changes = []
    for (old, new), standing, raw in zip(pairs, relative, seconds, strict=True):
        change, times, error = Change(old, new, spread=spread), standing or raw, spread if standing else spread_raw
        if times is not None:
            times = divide(times, (1, 1, 1), math.hypot(error, UNDER_LOAD * change.disturbed))
        changes.append(replace(change, latency=times, relative=standing is not None))
    return changes


def estimate_spread(ratios: Sequence[Ratio | None]) -> float:
    """Standard deviation of the logarithms around their median, beyond what the intervals explain.

    From the median absolute deviation, which a few rows that really changed do not move; 0 where rows are few.
    """
    known = [times for times in ratios if times is not None]
    logs = [math.log(middle) for middle, _, _ in known if middle]
    if len(logs) < FEWEST:
        return 0.0
    centre = statistics.median(logs)
    deviation = 1.4826 * statistics.median(abs(log - centre) for log in logs)
    widths = [math.log(high / low) / (2 * Z) for _, low, high in known if low and high]
    explained = statistics.median(widths) if widths else 0.0
    # From few rows it is itself uncertain: near Student's t with the third of the rows that the MAD makes use of.
    return (1 + 5 / len(logs)) * math.sqrt(max(deviation**2 - explained**2, 0.0))


def _pairs(old: list[Row], new: list[Row]) -> Iterator[tuple[Row, Row]]:
    """Rows of the same thing under the same conditions: on the same machine if there are such, or else on another;
    of the same recipe, or one that does not say its recipe; with the same seed if there are several."""
    left, waiting = list(old), list(new)
    for machine, recipe in ((True, True), (True, False), (False, True), (False, False)):
        for row in tuple(waiting):
            if not machine and any(_key(row, True, False) == _key(other, True, False) for other in old):
                continue
            same = [other for other in left if _key(other, machine, recipe) == _key(row, machine, recipe)]
            same = [other for other in same if recipe or None in (other.recipe, row.recipe)]
            alone = sum(_key(row, machine, recipe) == _key(other, machine, recipe) for other in new) == len(same) == 1
            match = next((other for other in same if alone or (recipe and other.seed == row.seed)), None)
            if match is not None:
                left = [other for other in left if other is not match]
                waiting = [other for other in waiting if other is not row]
                yield match, row


def _key(row: Row, machine: bool, recipe: bool) -> tuple[object, ...]:
    more = (row.device_name if machine else None, row.recipe if recipe else None)
    return (row.variant, row.runtime, row.device, row.threads, row.batch_size, row.dataset, *more)


def standing_ratio(old: Row, new: Row) -> Ratio | None:
    """Latency relative to the standing reference, new / old; None where one has none, or on another machine."""
    if old.device_name != new.device_name or not measured(old.standing) or not measured(new.standing):
        return None
    times = divide(
        (new.standing, new.standing_low, new.standing_high), (old.standing, old.standing_low, old.standing_high)
    )
    return times if times[1] else None


def latency_ratio(old: Row, new: Row) -> Ratio | None:
    """Ratio of the median latencies, new / old, with a 95 % bootstrap interval; None on another machine.

    Whole rounds are drawn, of each run by itself: samples of one round share the state the machine was in. Of rows
    that do not tell their rounds, samples are drawn. The same rows give the same interval.
    """
    import numpy as np

    if old.device_name != new.device_name or not old.latency_s or not new.latency_s:
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
