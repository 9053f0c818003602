"""The candidates of one device, from the first build to the last score: who takes part, and who leaves when."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from compress.evaluate.candidate import Candidate
from compress.evaluate.elimination import (
    HEAVY,
    SAMPLE,
    SHALLOW,
    TIE,
    find_slower,
    keeps_accuracy,
    loses_too_much,
    rank_by_speed,
    screen,
)
from compress.evaluate.figures import Group
from compress.evaluate.measurement import Measurement, describe_failure, iterate_pairs
from compress.evaluate.options import Goal, Hopeless
from compress.evaluate.processes import STANDING, Processes
from compress.measure import latency
from compress.measure.latency import Timing
from compress.measure.load import Watch

SHORT_S = 8.0  # of timing, before what takes long to build is built


@dataclass
class Evaluation:
    """The candidates of one device, over all batch sizes."""

    candidates: Sequence[Candidate]
    processes: Processes
    goal: Goal | None
    measurements: list[Measurement] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)  # reasons of candidates that never ran, by name
    dropped: dict[str, str] = field(default_factory=dict)  # of those that were not built because they cannot win
    slower: list[Measurement] = field(default_factory=list)  # dropped, but come back where the faster ones lose
    standing: Timing = field(default_factory=Timing)

    def measure(self, batch_size: int) -> Group:
        """All of it at one batch size, at a smaller one where memory does not hold it."""
        processes, options = self.processes, self.processes.options
        first = not self.measurements and not self.failures
        if first and self.goal is not None:
            self._begin_with_goal(self.goal, batch_size)
        elif first:
            self._add(self.candidates, batch_size)
        else:
            for each in self.measurements:
                each.recover()
        watch = Watch(processes.process_ids, processes.device)
        size, note = processes.put(self.active, batch_size)
        self._time(self.active, size, options.seconds)
        if options.hopeless is not None:
            self._drop_hopeless(options.hopeless, size)
        if first or self.goal is None:
            self._score(size)
        notes = [*watch.warnings(), *([note] if note else [])]
        return Group(self, size, tuple(notes), self.standing)

    def _begin_with_goal(self, goal: Goal, batch_size: int) -> None:
        """Candidates that could win are built, scored on a sample and timed for a short while."""
        dense = next((each for each in self.candidates if each.dense and each.cost is not None), None)
        heavy = dense is not None and dense.cost is not None and dense.cost().dense >= HEAVY
        if heavy:
            self._screen(self.candidates, batch_size)
        early = [each for each in self.candidates if heavy or not each.slow_to_build]
        self._add([each for each in early if each.name not in self.dropped], batch_size)
        self._drop_losing(goal)
        size, _ = self.processes.put(self.active, batch_size)
        self._time(self.active, size, min(SHORT_S, self.processes.options.seconds))
        late = [each for each in self.candidates if each not in early]
        if late:
            ranked = [each.candidate for _, each in rank_by_speed(self.active, self.dense)] if self.dense else []
            rivals = [next((each for each in ranked if goal.wanted(each) == wanted), None) for wanted in (True, False)]
            self._screen([*filter(None, rivals), *late], size)
            self._add([each for each in late if each.name not in self.dropped], batch_size)
            self._drop_losing(goal)

    def _screen(self, candidates: Sequence[Candidate], batch_size: int) -> None:
        """Leaves out what a few blocks show to be far slower; what is measured already stays."""
        self.processes.say(f"timing {SHALLOW} blocks of {len(candidates)} candidates, before any is built whole")
        reasons = screen(candidates, self.processes, self._groups(candidates), batch_size)
        known = {each.candidate.name for each in self.measurements}
        for name, reason in reasons.items():
            if name not in known:
                self.dropped[name] = reason
                self.processes.say(f"not built: {name}: {reason}")

    def _groups(self, candidates: Sequence[Candidate]) -> list[list[str]]:
        """Names of those among which the choice is, and of their rivals; what all are compared with is in neither."""
        if self.goal is None:
            return []
        goal = self.goal
        competing = [each for each in candidates if not (each.dense and each.runtime.name == "torch")]
        return [[each.name for each in competing if goal.wanted(each) == wanted] for wanted in (True, False)]

    @property
    def active(self) -> list[Measurement]:
        return [each for each in self.measurements if each.active]

    @property
    def dense(self) -> Measurement | None:
        """What all are compared with: the dense model in torch, or where there is none the first dense one."""
        found = [each for each in self.measurements if each.candidate.dense and each.failed is None]
        return next((each for each in found if each.candidate.runtime.name == "torch"), next(iter(found), None))

    def _add(self, candidates: Sequence[Candidate], batch_size: int) -> None:
        """Builds and starts candidates; what fails costs its own row."""
        processes, options = self.processes, self.processes.options
        sizes = [batch_size, *(size for size in options.batch_sizes if size != batch_size)]
        for number, candidate in enumerate(candidates, 1):
            how = "loading what was built of" if candidate.built() else "building"
            processes.say(f"{how} {candidate.name} ({number} of {len(candidates)})")
            try:
                if candidate.unavailable is not None:
                    raise RuntimeError(candidate.unavailable)
                made = processes.add(candidate, candidate.build(), sizes)
            except Exception as error:  # of engines, exporters, users' code: whatever it is, the others go on
                reason = describe_failure(error)
                self.failures[candidate.name] = reason
                processes.say(f"{candidate.name} failed: {reason}")
                continue
            processes.scores.restore(made)
            self.measurements.append(made)
        place = {each.name: number for number, each in enumerate(self.candidates)}
        self.measurements.sort(key=lambda each: place[each.candidate.name])
        if self.goal is not None:
            processes.score(self.active, min(SAMPLE, len(processes.images)))

    def _drop(self, each: Measurement, reason: str) -> None:
        each.eliminated = reason
        self.processes.stop(each.candidate)
        self.processes.say(f"dropped {each.candidate.name}: {reason}")

    def _drop_losing(self, goal: Goal) -> None:
        dense, labels = self.dense, self.processes.images.labels
        if dense is None:
            return
        for each in self.active:
            reason = loses_too_much(each, dense, labels, goal) if goal.wanted(each.candidate) else None
            if reason is not None:
                self._drop(each, reason)

    def _drop_hopeless(self, hopeless: Hopeless, batch_size: int) -> None:
        """Asks of each candidate that has seen a sample whether it is to see all images."""
        self.processes.score(self.active, min(self.processes.options.sample, len(self.processes.images)))
        rows = Group(self, batch_size, (), self.standing).make_rows("", first=False)
        told = {each.name: row for each, row in zip(self.candidates, rows, strict=True)}
        for each in self.active:
            reason = None if each.candidate.dense else hopeless(each.candidate.name, told)
            if reason is not None:
                self._drop(each, reason)

    def _time(self, active: Sequence[Measurement], batch_size: int, seconds: float) -> None:
        """Times artifacts in turns; with a goal, what turns out slower leaves meanwhile."""
        goal = self.goal
        names = {each.candidate.name: each for each in active}
        self.processes.say(
            f"timing {len(active)} artifacts in turns, batch {batch_size} on {self.processes.device}, "
            f"at most about {seconds:.0f} s"
        )
        groups = self._groups([each.candidate for each in active])
        reasons: dict[str, str] = {}

        def leave(timings: Mapping[str, Timing]) -> Collection[str]:
            reasons.update(find_slower(timings, reasons, groups, latency.MIN_ROUNDS))
            return reasons

        kept = {name: each.timing for name, each in names.items() if each.timing.turns}
        kept = {STANDING: self.standing, **kept} if goal is not None else {}
        timings = self.processes.time(
            active,
            batch_size,
            [*iterate_pairs(active)],
            seconds=seconds,
            timings=kept,
            leave=leave if goal is not None else None,
        )
        self.standing = timings[STANDING]
        for name, each in names.items():
            each.timing = timings[name]
            each.extremes = {kind: timings[key] for kind in ("easy", "hard") if (key := f"{name}, {kind}") in timings}
            each.failed = each.timing.failed
            if name in reasons and each.failed is None:
                self._drop(each, reasons[name])
                self.slower.append(each)

    def _score(self, batch_size: int) -> None:
        """All images through whatever decides the outcome: with a goal from the fastest on, until one keeps it."""
        count, labels = len(self.processes.images), self.processes.images.labels
        if self.goal is None or labels is None or self.dense is None:
            self.processes.score(self.active, count)
            return
        while not self._find_keeping(self.goal, labels) and self._bring_back(self.goal, batch_size):
            pass
        for each in self.active:
            if len(each.predicted_k) < count and each is not self.dense and self.goal.wanted(each.candidate):
                each.eliminated = f"slower than what is kept; scored on {len(each.predicted_k)} of {count:,} images"

    def _find_keeping(self, goal: Goal, labels: np.ndarray) -> bool:
        """Scores from the fastest on, and all that tie with it at once; whether one of them keeps the accuracy."""
        dense = self.dense
        if dense is None:
            return False
        waiting = rank_by_speed([each for each in self.active if goal.wanted(each.candidate)], dense)
        while waiting:
            near = [each for speed, each in waiting if speed >= (1 - TIE) * waiting[0][0]]
            self.processes.score([dense, *near], len(labels))
            if dense.failed or any(not each.failed and keeps_accuracy(each, dense, labels, goal) for each in near):
                return True
            waiting = [(speed, each) for speed, each in waiting if each not in near]
        return False

    def _bring_back(self, goal: Goal, batch_size: int) -> bool:
        """Times what left for being slower than candidates that all lose too much; False where there is nothing."""
        scored = [each for each in self.active if goal.wanted(each.candidate)]
        back = [each for each in self.slower if goal.wanted(each.candidate)]
        unbuilt = [each for each in self.candidates if goal.wanted(each) and each.name in self.dropped]
        self.slower.clear()
        for each in back:
            each.eliminated = None
        if not back:
            for candidate in unbuilt:
                del self.dropped[candidate.name]
            self._add(unbuilt, batch_size)
            self._drop_losing(goal)
        again = [each for each in self.active if each not in scored]
        self.processes.put(again, batch_size)
        self._time(again, batch_size, self.processes.options.seconds)
        return bool(back or unbuilt)
