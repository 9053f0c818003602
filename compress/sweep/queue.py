"""The trials of a sweep as a list of work that several processes share; Optuna keeps it in a database.

A slot is one piece of work. All are laid out before anything runs, so that nothing is done twice. A trial of Optuna is
one attempt at a slot: where its process died, the attempt is dropped, that is, it failed for no reason, and another one
waits with the same values. Whoever finds two attempts at one slot drops the later one.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from compress.ranges import suggest
from compress.sweep.settings import Point, Sweep
from reports.sweep import State, Trial

STALE_S = 900.0  # a process elsewhere that gave no sign of life for so long is dead; one comes at least every 2 minutes
BEGIN_S = 60.0  # between being taken and being begun, at most
STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "impossible",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class Taken:
    """A trial that this process works on."""

    number: int  # of the slot, from 1
    trial: optuna.Trial
    point: Point

    def begin(self, place: str, key: str) -> None:
        """Says who works on it, and under which lock."""
        self._note(place=place, key=key)
        self.alive()

    def alive(self) -> None:
        self._note(alive=time.time())

    def done(self, found: dict[str, Any]) -> None:
        self._note(**found)
        self._tell(values=[found["top1"], found["macs_per_image"]])

    def impossible(self, reason: str) -> None:
        self._note(reason=reason)
        self._tell(state=TrialState.PRUNED)

    def failed(self, reason: str) -> None:
        self._note(reason=reason)
        self.drop()

    def drop(self) -> None:
        """Leaves it to whoever comes next."""
        self._tell(state=TrialState.FAIL)

    def _note(self, **attributes: Any) -> None:
        with contextlib.suppress(UpdateFinishedTrialError):  # it was taken for dead, and another attempt at it waits
            for name, value in attributes.items():
                self.trial.set_user_attr(name, value)

    def _tell(self, **outcome: Any) -> None:
        with contextlib.suppress(UpdateFinishedTrialError, ValueError):
            self.trial.study.tell(self.trial, **outcome)


class Queue:
    """The slots of a sweep.

    Args:
        storage: of Optuna; what of this sweep is in it already is gone on with.
        key: hash of all that decides on the trials.
        place: name of the run directory, on this machine.
        held: whether a process works in this run directory on the trial of a key.
    """

    def __init__(self, sweep: Sweep, storage: BaseStorage, key: str, place: str, held: Callable[[str], bool]):
        self.plan, self.seed, self.place, self.held = sweep.plan, sweep.base.seed, place, held
        self.slots, name = sweep.plan.slots(), f"{sweep.name}-{key}"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        options = {"storage": storage, "sampler": self._sampler(0)}
        try:
            self.study = optuna.create_study(study_name=name, directions=["maximize", "minimize"], **options)
        except DuplicatedStudyError:
            self.study = optuna.load_study(study_name=name, **options)

    def take(self) -> Iterator[Taken]:
        """Trials to work on, one after another, until none waits."""
        while self._lay_out():
            trial = self.study.ask()
            slot = trial.user_attrs.get("slot", "")
            first = self._attempts().get(slot, [])[:1]
            if slot not in self.slots or [each.number for each in first] != [trial.number]:
                self.study.tell(trial, state=TrialState.FAIL)  # dropped: there is an earlier attempt
                continue
            trial.set_user_attr("place", self.place)
            number = list(self.slots).index(slot) + 1
            self.study.sampler = self._sampler(self.seed + number)
            point = {setting: suggest(trial, setting, choices) for setting, choices in self.plan.space.items()}
            yield Taken(number, trial, point)

    def trials(self) -> list[Trial]:
        """Every slot as it stands."""
        found, attempts = [], self._attempts()
        for number, (slot, point) in enumerate(self.slots.items(), 1):
            if slot not in attempts:
                found.append(Trial(number, "waiting", point))
                continue
            trial = attempts[slot][0]
            noted = {name: trial.user_attrs[name] for name in Trial.__dataclass_fields__ if name in trial.user_attrs}
            found.append(Trial(number, STATES[trial.state], trial.params or point, **noted))
        return found

    def _lay_out(self) -> bool:
        """Drops attempts whose process is dead, adds those that are missing; returns whether one waits."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._dead(trial):
                with contextlib.suppress(UpdateFinishedTrialError, ValueError):  # another process was quicker
                    self.study.tell(trial.number, state=TrialState.FAIL)
        attempts, dropped = self._attempts(), self._attempts(dropped=True)
        for slot, point in self.slots.items():
            if slot not in attempts:
                before = dropped.get(slot, [])
                self.study.enqueue_trial(before[-1].params or point if before else point, user_attrs={"slot": slot})
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _attempts(self, *, dropped: bool = False) -> dict[str, list[FrozenTrial]]:
        """By slot, those attempts that count, or those that were dropped; earliest first."""
        found: dict[str, list[FrozenTrial]] = {}
        for trial in self.study.get_trials(deepcopy=False):
            slot, reason = trial.user_attrs.get("slot"), trial.user_attrs.get("reason")
            if slot is not None and (trial.state == TrialState.FAIL and reason is None) == dropped:
                found.setdefault(slot, []).append(trial)
        return found

    def _dead(self, trial: FrozenTrial) -> bool:
        started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        silent_s, key = time.time() - trial.user_attrs.get("alive", started), trial.user_attrs.get("key")
        if trial.user_attrs.get("place") != self.place:
            return silent_s > STALE_S
        return silent_s > BEGIN_S if key is None else not self.held(key)

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """A sampler for one slot: processes that share a sweep must not draw the same."""
        if self.plan.sampler == "tpe":
            return optuna.samplers.TPESampler(seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)  # where a point is given, there is nothing to draw
