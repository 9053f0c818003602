"""How a point is measured: built, timed and scored by the one harness, in levels.

1. Built, without training; timed in turns with the dense model and the best so far; scored on a sample of the held-out
   images.
2. What that does not rule out sees all held-out images.
3. With epochs, what could still win is fine-tuned and measured once more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from baselines.errors import InputError
from compress import files, runtimes
from compress.evaluate import Candidate, Images, Options, describe_variant, evaluate, share_cost
from compress.evaluate.candidate import warn_of_few_images
from compress.evaluate.measurement import describe_failure
from compress.evaluate.options import Hopeless
from compress.runtimes import Runtime, choices
from compress.training.build import Built, make_artifact, make_baseline, make_variant
from compress.training.run import Run
from compress.variant import Variant
from compress.verbs.search.choice import Trial, find_anchor, find_best, is_dominated
from compress.verbs.search.space import Point, Space
from compress.verbs.search.wishes import Figures, Wishes
from reports import Row

RECOVERABLE = 0.15  # of top-1, that a short fine-tuning may win back


@dataclass(frozen=True)
class Anchor:
    """A trial that new ones are timed beside, and its figures so far."""

    candidate: Candidate
    figures: Figures


def read_aligned(row: Row, anchor: Anchor | None, rows: Mapping[str, Row]) -> Figures | None:
    """Figures as they would be where the anchor, one of `rows`, had those that it had before."""
    figures = Figures.read(row)
    now = Figures.read(rows[anchor.candidate.name]) if anchor else None
    return figures.align(anchor.figures, now) if figures and anchor and now else figures


@dataclass
class Measuring:
    """Measures points of a space for one model.

    Args:
        images: held-out ones.
        options: of every evaluation.
    """

    run: Run
    space: Space
    images: Images
    options: Options
    wishes: Wishes

    @cached_property
    def baseline(self) -> Built:
        """The dense model; kept, since methods remember what they measured of it."""
        return make_baseline(self.run)

    @cached_property
    def dense(self) -> Candidate:
        """In torch, which everything is compared with."""
        return self.make_candidate(self.baseline, runtimes.get("torch"), None, self.images)

    def measure(self, points: Sequence[Point], done: Sequence[Trial]) -> list[Trial]:
        """What came of each point, in their order, fine-tuned where that is allowed and could still win."""
        trained = [self.space.must_train(point) for point in points]
        found = self._measure(points, trained, done)
        if not self.space.epochs:
            return found
        best = find_best([*done, *found], self.wishes)
        again = [
            index
            for index, each in enumerate(found)
            if not trained[index] and self.space.can_train(each.point) and self._could_win(each, best)
        ]
        if again:
            tuned = self._measure([points[index] for index in again], [True] * len(again), done)
            for index, each in zip(again, tuned, strict=True):
                before, after = found[index].figures, each.figures
                if before is not None and after is not None and after.change > before.change:
                    found[index] = replace(each, tuned=True)
        return found

    def make_point(self, point: Point, *, tuned: bool, images: Images) -> tuple[Built, Candidate]:
        """The model of a point, which is made, and its candidate, whose artifact is not yet.

        Raises:
            InputError: it cannot be made of this model.
        """
        which, runtime = self.space.read(point, tuned=tuned)
        built = make_variant(self.run, Variant(which.methods, self.run.baseline.name), self.baseline)
        return built, self.make_candidate(built, runtime, self.space.describe(point), images)

    def make_candidate(self, built: Built, runtime: Runtime, recipe: str | None, images: Images) -> Candidate:
        run, count = self.run, min(self.run.config.calibration_images, len(self.run.data.train.labels))
        return Candidate(
            **describe_variant(built.variant),
            runtime=runtime,
            recipe=recipe,
            build=partial(make_artifact, run, built, runtime),
            key=built.key,
            cost=share_cost(lambda: built.restored[0], images),
            record=built.path.with_name("training.jsonl"),
            notes=warn_of_few_images(built.variant, count),
        )

    def _measure(self, points: Sequence[Point], tuned: Sequence[bool], done: Sequence[Trial]) -> list[Trial]:
        made: dict[int, Candidate] = {}
        reasons: dict[int, str] = {}
        for index, point in enumerate(points):
            try:
                _, made[index] = self.make_point(point, tuned=tuned[index], images=self.images)
            except (InputError, FloatingPointError, RuntimeError, ValueError) as error:  # of this point alone
                reasons[index] = describe_failure(error)
        anchor = self._find_anchor(done) if made else None
        beside = [anchor.candidate] if anchor else []
        rows = self.evaluate([*made.values(), *beside], self.images, partial(self._find_hopeless, done, anchor))
        found = []
        for index, point in enumerate(points):
            row = rows.get(made[index].name) if index in made else None
            figures = read_aligned(row, anchor, rows) if row else None
            reason = reasons.get(index) or (row.failed if row else None)
            label = f"{row.label} in {row.runtime}" if row else ""
            lacks = None if figures else reason or "it lacks figures that a choice needs"
            found.append(Trial(point, figures, label, lacks, tuned=tuned[index]))
        return found

    def _find_anchor(self, done: Sequence[Trial]) -> "Anchor | None":
        trial = find_anchor(done, self.wishes)
        if trial is None or trial.figures is None:
            return None
        _, candidate = self.make_point(trial.point, tuned=trial.tuned, images=self.images)
        return Anchor(candidate, trial.figures)

    def evaluate(
        self, candidates: Sequence[Candidate], images: Images, hopeless: Hopeless | None = None
    ) -> dict[str, Row]:
        """Rows by the names of their candidates, the dense model in torch among them.

        One evaluation at a time runs on a machine, also where several processes share a search.
        """
        unique = {self.dense.name: self.dense} | {each.name: each for each in candidates}
        if not candidates:
            return {}
        with files.locked(choices.locate().with_name("timing")):
            rows = evaluate([*unique.values()], images, replace(self.options, hopeless=hopeless), self.run.say)
        return dict(zip(unique, rows, strict=True))

    def _find_hopeless(
        self, done: Sequence[Trial], anchor: "Anchor | None", name: str, rows: Mapping[str, Row]
    ) -> str | None:
        """Why a candidate need not see all images."""
        figures = read_aligned(rows[name], anchor, rows)
        if figures is None or (anchor and name == anchor.candidate.name):
            return None
        figures = replace(figures, complete=False)
        missed = self.wishes.find_surely_missed(figures)
        if missed == "--max-drop" and self.space.epochs and figures.drop < RECOVERABLE:
            return None
        if missed is not None:
            return f"surely misses {missed}"
        return "another is surely faster and more accurate, and no larger" if is_dominated(figures, done) else None

    def _could_win(self, trial: Trial, best: Trial | None) -> bool:
        """Whether fine-tuning could make a trial the best: it misses no wish but that for accuracy."""
        found = trial.figures
        if found is None or found.drop > RECOVERABLE:
            return False
        if not replace(self.wishes, max_drop=None).meets(found):
            return False
        if best is None or best.figures is None or self.wishes.max_drop is None:
            return True
        return found.standing < best.figures.standing
