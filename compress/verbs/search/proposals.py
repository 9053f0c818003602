"""What is tried next: what takes no thought, what is near the best, and what Optuna's sampler draws."""

import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial

from compress.verbs.search.choice import Trial, find_best, is_dominated
from compress.verbs.search.space import LOWERING, REFINED, Point, Space, identify
from compress.verbs.search.wishes import Figures, Wishes

REFINE_EVERY = 12  # trials
SOUND = 0.01  # of top-1, that numbers may lose which methods are tried in first, where no wish says it
OBJECTIVES: list[Any] = ["minimize"] * 3  # loss, latency, size of the file


@dataclass(frozen=True)
class Proposals:
    """Points that nobody tried.

    Args:
        done: finished trials; `kept`: the same that have figures, as Optuna keeps them.
        taken: what others work on, or will, as `identify` names it.
        seed: another one for each call.
    """

    space: Space
    wishes: Wishes
    done: Sequence[Trial]
    kept: Sequence[FrozenTrial]
    taken: set[str]
    seed: int

    def list_next(self, count: int) -> list[Point]:
        """Up to so many: plain ones, then each method alone, then what is near the best and what Optuna draws.

        Before them come those that a sample ruled out under other wishes, and not under these.
        """
        tried, found = self.taken | {identify(trial.point) for trial in self.done}, []
        again = [trial.point for trial in self.done if self._is_due_again(trial)]
        best = find_best(self.done, self.wishes)
        near = self.space.list_neighbours(best.point) if best is not None and REFINED not in best.point else []
        random.Random(self.seed).shuffle(near)
        for points, most in ((again, count), (self._list_known(), count), (near, -(-count // 2))):
            for point in points:
                if (point in again or identify(point) not in tried) and len(found) < most:
                    tried.add(identify(point))
                    found.append(point)
        for point in self._draw(tried) if len(found) < count else ():
            tried.add(identify(point))
            found.append(point)
            if len(found) == count:
                break
        return found

    def _is_due_again(self, trial: Trial) -> bool:
        figures = trial.figures
        if figures is None or figures.complete or identify(trial.point) in self.taken:
            return False
        return not self.wishes.find_surely_missed(figures) and not is_dominated(figures, self.done)

    def _list_known(self) -> Iterator[Point]:
        """What needs no sampler: plain lowerings; each method alone, in the best of those; the best with refinement."""
        starts = self.space.list_starts()
        yield from starts
        plain = [each for each in self.done if each.point in starts]
        if len(plain) < len(starts):
            return
        allowed = SOUND if self.wishes.max_drop is None else self.wishes.max_drop
        sound = [each for each in plain if each.figures and each.figures.drop - 2 * each.figures.error <= allowed]
        yield from self.space.list_seeds(min(sound or plain, key=_get_standing).point[LOWERING])
        best, finer = find_best(self.done, self.wishes), sum(REFINED in each.point for each in self.done)
        due = (len(self.done) - len(starts)) // REFINE_EVERY > finer
        if due and best is not None and (point := self.space.refine(best.point)) is not None:
            yield point

    def _draw(self, tried: set[str]) -> Iterator[Point]:
        """Endlessly, as long as there is something that nobody tried."""
        known = {identify(each.point): each.figures for each in self.done}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parts of Optuna that it calls experimental
            sampler = TPESampler(n_startup_trials=0, constant_liar=True, seed=self.seed)
            study = optuna.create_study(directions=OBJECTIVES, sampler=sampler)
            for trial in self.kept:
                point = trial.user_attrs["point"]
                if REFINED not in point and (figures := known.get(identify(point))):
                    study.add_trial(_constrain(trial, figures, self.wishes))
        while True:
            for _ in range(20):
                point = self.space.suggest(study.ask())
                if identify(point) not in tried:
                    break
            else:
                point = self.space.draw_untried(tried, self.seed)
                if point is None:
                    return
            yield point


def _constrain(trial: FrozenTrial, figures: Figures, wishes: Wishes) -> FrozenTrial:
    """A finished trial with the constraints of these wishes."""
    return optuna.create_trial(
        params=trial.params,
        distributions=trial.distributions,
        values=list_objectives(figures),
        constraints=wishes.measure_shortfalls(figures),
    )


def list_objectives(figures: Figures) -> list[float]:
    """In the order of `OBJECTIVES`."""
    return [figures.drop, figures.standing, float(figures.file_bytes)]


def _get_standing(trial: Trial) -> float:
    return trial.figures.standing if trial.figures else float("inf")
