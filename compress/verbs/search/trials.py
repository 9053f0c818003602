"""The trials of a search, in a database of Optuna that several processes share and that outlives all of them.

A study belongs to a model, its images, a machine and a space, not to wishes: a search with other wishes begins with all
that was measured before. What is tried next, Optuna's TPE decides in a study in memory, which holds the finished trials
with the constraints of the present wishes. A trial whose process died is dropped, and waits again.
"""

import contextlib
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import optuna
import psutil
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from compress.verbs.search.choice import Trial, find_reference_s
from compress.verbs.search.proposals import OBJECTIVES, Proposals, list_objectives
from compress.verbs.search.space import REFINED, Point, Space, identify
from compress.verbs.search.wishes import Figures, Wishes

SILENT_S = 3600.0  # a process of another machine that began a trial so long ago is dead
BEGIN_S = 60.0  # between taking a trial and saying by whom, at most


@dataclass(frozen=True)
class Taken:
    """A trial that this process works on."""

    study: optuna.Study
    trial: optuna.Trial
    point: Point

    def finish(self, done: Trial) -> None:
        """Keeps what came of it; what is impossible is not tried again."""
        with contextlib.suppress(UpdateFinishedTrialError):  # another process took this one for dead
            self.trial.set_user_attr("label", done.label)
            self.trial.set_user_attr("tuned", done.tuned)
            if done.figures is None:
                self.trial.set_user_attr("reason", done.reason)
                self.study.tell(self.trial, state=TrialState.PRUNED)
                return
            self.trial.set_user_attr("figures", asdict(done.figures))
            self.study.tell(self.trial, values=list_objectives(done.figures))


class Trials:
    """Those of one study.

    Args:
        key: hash of all that figures depend on.
    """

    def __init__(self, storage: BaseStorage, key: str, space: Space, seed: int):
        self.space, self.seed = space, seed
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        name = f"search-{key}"
        try:
            self.study = optuna.create_study(storage=storage, study_name=name, directions=OBJECTIVES)
        except DuplicatedStudyError:
            self.study = optuna.load_study(storage=storage, study_name=name)

    def list_done(self) -> list[Trial]:
        """Finished ones, the newest of a point alone, in the order in which points were first finished.

        Their latencies are those that they would have in one and the same session, by the standing reference.
        """
        found: dict[str, Trial] = {}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
            told = trial.user_attrs
            figures = Figures(**told["figures"]) if "figures" in told else None
            point = told["point"]
            facts = {name: told[name] for name in ("label", "reason", "tuned") if name in told}
            found[identify(point)] = Trial(point, figures, **facts)
        reference_s = find_reference_s([each.figures for each in found.values() if each.figures])
        return [replace(each, figures=each.figures and each.figures.rescale(reference_s)) for each in found.values()]

    def take(self, count: int, wishes: Wishes) -> list[Taken]:
        """Trials to work on: what a dead process left, then new ones; fewer where the space holds no more."""
        self._revive()
        found: list[Taken] = []
        while len(found) < count:
            if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                points = self._propose(wishes).list_next(count - len(found))
                for point in points:
                    self._enqueue(point)
                if not points:
                    break
            trial = self.study.ask()
            point = trial.user_attrs.get("point")
            if point is None:  # another process was quicker, and this one is empty
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            for name, value in self._owner.items():
                trial.set_user_attr(name, value)
            self.space.suggest(trial)
            found.append(Taken(self.study, trial, point))
        return found

    def drop(self, taken: Sequence[Taken]) -> None:
        """Leaves trials to whoever comes next, because this process ends."""
        for each in taken:
            with contextlib.suppress(UpdateFinishedTrialError, ValueError):
                self.study.tell(each.trial, state=TrialState.FAIL)
                self._enqueue(each.point)

    @cached_property
    def _owner(self) -> dict[str, Any]:
        return {"host": socket.gethostname(), "pid": psutil.Process().pid, "born": psutil.Process().create_time()}

    def _enqueue(self, point: Point) -> None:
        params = {name: value for name, value in point.items() if name != REFINED}
        self.study.enqueue_trial(params, user_attrs={"point": point})

    def _revive(self) -> None:
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._is_dead(trial):
                with contextlib.suppress(UpdateFinishedTrialError, ValueError):  # another process was quicker
                    self.study.tell(trial.number, state=TrialState.FAIL)
                    if "point" in trial.user_attrs:
                        self._enqueue(trial.user_attrs["point"])

    def _is_dead(self, trial: FrozenTrial) -> bool:
        told, started = trial.user_attrs, trial.datetime_start
        if told.get("host", self._owner["host"]) != self._owner["host"] or "born" not in told:
            limit_s = SILENT_S if "born" in told else BEGIN_S
            return started is None or time.time() - started.timestamp() > limit_s
        try:
            return abs(psutil.Process(told["pid"]).create_time() - told["born"]) > 1
        except psutil.NoSuchProcess:
            return True

    def _propose(self, wishes: Wishes) -> Proposals:
        states = (TrialState.RUNNING, TrialState.WAITING)
        everything = self.study.get_trials(deepcopy=False)
        busy = [
            trial.user_attrs["point"] for trial in everything if trial.state in states and "point" in trial.user_attrs
        ]
        kept = [trial for trial in everything if trial.state == TrialState.COMPLETE]
        taken, seed = set(map(identify, busy)), self.seed + len(everything)  # processes must not draw the same
        return Proposals(self.space, wishes, self.list_done(), kept, taken, seed)
