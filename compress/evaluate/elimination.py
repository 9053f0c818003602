"""Who can no longer win: what is surely slower, or surely loses more accuracy than it may, is not measured further.

A choice among candidates asks for the fastest that keeps the accuracy. It is made as by measuring all of them to the
end: a candidate leaves when the whole interval of its speed lies below that of one that is faster, by more than
what counts as a tie; the accuracy of all test images is looked at from the fastest on, until one keeps it.
"""

import statistics
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from compress.evaluate.candidate import Candidate
from compress.evaluate.measurement import Measurement, has_fixed_batch
from compress.evaluate.options import Goal
from compress.evaluate.processes import Processes
from compress.measure import latency
from compress.measure.latency import Timing
from compress.measure.statistics import mcnemar
from compress.runtimes.client import Worker

Groups = Sequence[Sequence[str]]  # names of candidates that compete with one another

SAMPLE = 128  # images that every candidate is scored on first
FIRST_ROUNDS = 7  # of timing, before anybody is called slower
CAUTION = 0.05  # by how much more than a tie, before so many rounds as an interval is believed with
TIE = 0.02  # of the speed: what lies closer together is decided by the error
LOSS = 0.01  # of top-1 that may be lost without being asked for more, where it is statistically significant
ALPHA = 0.05
SHALLOW = 2  # blocks that stand for a model which takes long to build
SHALLOW_S = 3.0  # of timing them
SHALLOW_ROUNDS = 9
FAR = 0.3  # by how much their interval has to lie below that of the fastest
HEAVY = 500e6  # MACs of an image, from which on building and running whole models takes longer than screening
SURELY = 3.3  # standard deviations of a loss on the sample: p of about 0.0005


def find_slower(
    timings: Mapping[str, Timing], gone: Collection[str], groups: Groups, min_rounds: int, least: float = TIE
) -> dict[str, str]:
    """Reasons to leave by name, for those whose interval lies below the fastest of their group.

    Args:
        gone: names of those that left before.
        min_rounds: from which on an interval is believed.
        least: by how much it has to lie below.
    """
    reasons = {}
    for group in groups:
        here = [
            name
            for name in group
            if name in timings and name not in gone and not timings[name].failed
            if len(timings[name].turns) >= FIRST_ROUNDS
        ]
        if len(here) < 2:
            continue
        best = min(here, key=lambda name: statistics.median(map(statistics.median, timings[name].turns.values())))
        for name in here:
            margin = least if len(timings[name].turns) >= min_rounds else least + CAUTION
            ratio = latency.speedup(timings[best], timings[name]) if name != best else None
            if ratio is not None and ratio[2] < 1 - margin:
                reasons[name] = (
                    f"slower than {best}: {ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}] times its speed "
                    f"after {len(timings[name].turns)} rounds"
                )
    return reasons


def loses_too_much(each: Measurement, dense: Measurement, labels: np.ndarray | None, goal: Goal) -> str | None:
    """Why the images seen so far rule a candidate out, if they do: its loss is surely larger than what is allowed."""
    n = min(len(each.predicted_k), len(dense.predicted_k))
    if labels is None or not n:
        return None
    right, before = each.predicted_k[:n] == labels[:n], dense.predicted_k[:n] == labels[:n]
    lost, won = int((before & ~right).sum()), int((right & ~before).sum())
    drop = (lost - won) / n
    deviation = np.sqrt(max(lost + won - (lost - won) ** 2 / n, 1)) / n
    limit = LOSS if goal.max_drop is None else goal.max_drop
    if drop - SURELY * deviation > limit:
        return f"loses {100 * drop:.1f} points of top-1 on the first {n} images"
    return None


def keeps_accuracy(each: Measurement, dense: Measurement, labels: np.ndarray, goal: Goal) -> bool:
    """Whether a candidate that has seen all images loses no more than is allowed."""
    right, before = each.predicted_k == labels, dense.predicted_k == labels
    drop = int(before.sum() - right.sum()) / len(labels)  # of counts: 1 point is 1 point
    if goal.max_drop is not None:
        return drop <= goal.max_drop
    return drop <= LOSS or mcnemar(right, before) >= ALPHA


def rank_by_speed(measurements: Sequence[Measurement], dense: Measurement) -> list[tuple[float, Measurement]]:
    """(speed-up over the dense model in torch, candidate), the fastest first; those without a common round left out."""
    ratios = [(latency.speedup(dense.timing, each.timing), each) for each in measurements]
    known = [(1.0 if each is dense else ratio[0], each) for ratio, each in ratios if ratio is not None]
    return sorted(known, key=lambda pair: -pair[0])


def screen(candidates: Sequence[Candidate], processes: Processes, groups: Groups, batch_size: int) -> dict[str, str]:
    """Reasons to leave by name, before anything is built whole: a few blocks of each model, timed in turns.

    A block is a fixed share of a model's work. An engine that needs far more time for some blocks needs more for all;
    how much more is safe to call far covers what calls cost beside the blocks.
    """
    workers: dict[str, Worker] = {}
    options, batches = processes.options, processes.images.timed(batch_size)

    def warm_up(name: str, candidate: Candidate, path: Path) -> None:
        workers[name].ready()
        workers[name].put("batches", batches)
        workers[name].turn("batches", 0, 1, uncounted=0)

    with ExitStack() as stack, ThreadPoolExecutor(max(options.threads, 1)) as pool:
        running = {}
        for candidate in candidates:
            if candidate.shallow is None:
                continue
            try:
                few = candidate.shallow(SHALLOW)
                path = few.build()
            except Exception:
                continue  # the whole one will say why
            shape = batch_size if has_fixed_batch(few) else None
            worker = Worker.start(few.runtime.name, path, processes.device, options.threads, shape)
            workers[candidate.name] = stack.enter_context(worker)
            running[candidate.name] = pool.submit(warm_up, candidate.name, few, path)
        ready = [name for name, outcome in running.items() if outcome.exception() is None]
        timings = latency.interleave(
            {name: partial(workers[name].turn, "batches") for name in ready},
            budget_s=SHALLOW_S,
            min_rounds=SHALLOW_ROUNDS,
        )
    reasons = find_slower(timings, (), groups, SHALLOW_ROUNDS, FAR)
    return {name: f"on {SHALLOW} blocks {reason}" for name, reason in reasons.items()}
