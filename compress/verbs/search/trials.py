"""The trials of a search, in a database of Optuna that several processes share and that outlives all of them.

A study belongs to a model, its images, a machine and a space, not to wishes: a search with other wishes begins with all
that was measured before. What is tried next, Optuna's TPE decides in a study in memory, which holds the finished trials
with the constraints of the present wishes. A trial whose process died is dropped, and waits again.
"""

import contextlib
import socket
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import optuna
import psutil
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from compress.verbs.search.choice import find_best
from compress.verbs.search.space import LOWERING, REFINED, Point, Space, identify
from compress.verbs.search.wishes import Figures, Wishes

SILENT_S = 3600.0  # a process of another machine that began a trial so long ago is dead
REFINE_EVERY = 6  # proposals
SOUND = 0.01  # of top-1, that numbers may lose which methods are tried in first, where no wish says it
OBJECTIVES: list[Any] = ["minimize"] * 3  # loss, latency, size of the file


@dataclass(frozen=True)
class Trial:
    """A point that was tried, and what came of it."""

    point: Point
    figures: Figures | None = None
    label: str = ""  # for a person
    reason: str | None = None  # why there are no figures
    tuned: bool = False  # whether the figures are those after fine-tuning


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
            self.study.tell(self.trial, values=_list_objectives(done.figures))


class Trials:
    """Those of one study.

    Args:
        key: hash of all that figures depend on.
    """

    def __init__(self, storage: BaseStorage, key: str, space: Space, seed: int):
        self.space, self.seed, self.proposed = space, seed, 0
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        name = f"search-{key}"
        try:
            self.study = optuna.create_study(storage=storage, study_name=name, directions=OBJECTIVES)
        except DuplicatedStudyError:
            self.study = optuna.load_study(storage=storage, study_name=name)

    def list_done(self) -> list[Trial]:
        """Finished ones, the newest of a point alone, in the order in which points were first finished."""
        found: dict[str, Trial] = {}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
            told = trial.user_attrs
            figures = Figures(**told["figures"]) if "figures" in told else None
            point = told["point"]
            facts = {name: told[name] for name in ("label", "reason", "tuned") if name in told}
            found[identify(point)] = Trial(point, figures, **facts)
        return list(found.values())

    def take(self, count: int, wishes: Wishes) -> list[Taken]:
        """Trials to work on: what a dead process left, then new ones; fewer where the space holds no more."""
        self._revive()
        found: list[Taken] = []
        while len(found) < count:
            if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                points = self._propose(count - len(found), wishes)
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
            return started is None or time.time() - started.timestamp() > SILENT_S * ("born" in told)
        try:
            return abs(psutil.Process(told["pid"]).create_time() - told["born"]) > 1
        except psutil.NoSuchProcess:
            return True

    def _propose(self, count: int, wishes: Wishes) -> list[Point]:
        """Points that nobody tried: plain ones, then each method alone, then what Optuna draws."""
        done = self.list_done()
        states = (TrialState.RUNNING, TrialState.WAITING)
        busy = self.study.get_trials(deepcopy=False, states=states)
        taken = {identify(trial.user_attrs["point"]) for trial in busy if "point" in trial.user_attrs}
        tried, found = taken | {identify(trial.point) for trial in done}, []
        again = [each.point for each in done if each.figures and not each.figures.complete and not
                 wishes.find_surely_missed(each.figures) and not is_dominated(each.figures, done)]  # fmt: skip
        for point in [*(each for each in again if identify(each) not in taken), *self._list_known(done, wishes)]:
            if (identify(point) not in tried or point in again) and len(found) < count:
                tried.add(identify(point))
                found.append(point)
        for point in self._draw(done, wishes, tried) if len(found) < count else ():
            tried.add(identify(point))
            found.append(point)
            if len(found) == count:
                break
        return found

    def _list_known(self, done: Sequence[Trial], wishes: Wishes) -> Iterator[Point]:
        """What needs no sampler: plain lowerings; each method alone, in the best of those; the best with refinement."""
        starts = self.space.list_starts()
        yield from starts
        plain = [each for each in done if each.point in starts]
        if len(plain) < len(starts):
            return
        allowed = SOUND if wishes.max_drop is None else wishes.max_drop
        sound = [each for each in plain if each.figures and each.figures.drop - 2 * each.figures.error <= allowed]
        yield from self.space.list_seeds(min(sound or plain, key=_get_standing).point[LOWERING])
        self.proposed += 1
        best = find_best(done, wishes)
        if best is not None and self.proposed % REFINE_EVERY == 0 and (finer := self.space.refine(best.point)):
            yield finer

    def _draw(self, done: Sequence[Trial], wishes: Wishes, tried: set[str]) -> Iterator[Point]:
        """Endlessly, as long as there is something that nobody tried."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parts of Optuna that it calls experimental
            sampler = TPESampler(n_startup_trials=0, constant_liar=True, seed=self.seed + len(done))
            study = optuna.create_study(directions=OBJECTIVES, sampler=sampler)
            known = {trial.number: trial for trial in self.study.get_trials(deepcopy=False)}
            for trial in known.values():
                if trial.state == TrialState.COMPLETE and REFINED not in trial.user_attrs["point"]:
                    study.add_trial(_constrain(trial, wishes))
        while True:
            for _ in range(20):
                point = self.space.suggest(study.ask())
                if identify(point) not in tried:
                    break
            else:
                point = self.space.draw_untried(tried, self.seed + len(done))
                if point is None:
                    return
            yield point


def is_dominated(found: Figures, done: Sequence[Trial]) -> bool:
    """Whether another is surely faster and more accurate, and no larger."""
    others = [each.figures for each in done if each.figures is not None and each.figures.complete]
    return any(
        each.speedup_low > found.speedup_high
        and each.change - 2 * each.error > found.change + 2 * found.error
        and each.file_bytes <= found.file_bytes
        and each.macs <= found.macs
        for each in others
    )


def _constrain(trial: FrozenTrial, wishes: Wishes) -> FrozenTrial:
    """A finished trial with the constraints of these wishes."""
    figures = Figures(**trial.user_attrs["figures"])
    short = wishes.measure_shortfalls(figures)
    return optuna.create_trial(
        params=trial.params,
        distributions=trial.distributions,
        values=_list_objectives(figures),
        constraints=short,
    )


def _list_objectives(figures: Figures) -> list[float]:
    return [figures.drop, figures.standing, float(figures.file_bytes)]


def _get_standing(trial: Trial) -> float:
    return trial.figures.standing if trial.figures else float("inf")
