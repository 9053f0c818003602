"""Which of the trials meets the wishes best, which come nearest where none does, and what stands beside the best."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from compress.verbs.search.space import Point
from compress.verbs.search.wishes import SPEED_MARGIN, Figures, Wishes


@dataclass(frozen=True)
class Trial:
    """A point that was tried, and what came of it."""

    point: Point
    figures: Figures | None = None
    label: str = ""  # for a person
    reason: str | None = None  # why there are no figures
    tuned: bool = False  # whether the figures are those after fine-tuning


def find_best(trials: Sequence[Trial], wishes: Wishes) -> Trial | None:
    """The best that meets all wishes by a margin, with all held-out images scored; None where none does."""
    ranked = rank(trials, wishes)
    return ranked[0] if ranked else None


def find_anchor(trials: Sequence[Trial], wishes: Wishes) -> Trial | None:
    """What new trials are timed beside: the best so far or, where nothing meets the wishes, the fastest."""
    known = [(each, each.figures.standing) for each in trials if each.figures is not None and each.figures.complete]
    return find_best(trials, wishes) or min(known, key=lambda pair: pair[1], default=(None, 0.0))[0]


def rank(trials: Sequence[Trial], wishes: Wishes) -> list[Trial]:
    """All that meet the wishes, the best first: the fastest where a loss is bounded, else the most accurate.

    Of those as fast as the fastest within what processes differ, the most accurate comes first.
    """
    known = [(each, each.figures) for each in trials if each.figures is not None and each.figures.complete]
    good = [(each, found) for each, found in known if wishes.meets(found)]
    if wishes.max_drop is None:
        return [each for each, _ in sorted(good, key=lambda pair: (pair[1].drop, pair[1].standing))]
    ordered = sorted(good, key=lambda pair: pair[1].standing)
    near = [pair for pair in ordered if pair[1].standing <= (1 + SPEED_MARGIN) * ordered[0][1].standing]
    rest = ordered[len(near) :]
    return [each for each, _ in [*sorted(near, key=lambda pair: pair[1].drop), *rest]]


def find_nearest(trials: Sequence[Trial], wishes: Wishes) -> dict[str, tuple[Trial, bool]]:
    """By the name of a wish, what comes nearest to it, and whether that meets all other wishes.

    It is chosen among those that meet them, where there are any.
    """
    known = [(each, each.figures) for each in trials if each.figures is not None]
    found = {}
    for name in wishes.named:
        others = replace(wishes, **{name: None})
        meeting = [(each, figures) for each, figures in known if others.meets(figures)]
        near = min(meeting or known, key=lambda pair: wishes.measure_shortfalls(pair[1])[name], default=None)
        if near is not None:
            found[name] = near[0], bool(meeting)
    return found


def find_front(trials: Sequence[Trial]) -> list[Trial]:
    """Trials than which none is both faster and more accurate, as far as is known; the fastest first."""
    known = [(each, each.figures) for each in trials if each.figures is not None]
    ordered = sorted(known, key=lambda pair: (pair[1].standing, pair[1].drop))
    front: list[tuple[Trial, Figures]] = []
    for each, figures in ordered:
        if not front or figures.drop < front[-1][1].drop:
            front.append((each, figures))
    return [each for each, _ in front]


def find_neighbours(trials: Sequence[Trial], best: Trial) -> list[Trial]:
    """The next faster and the next more accurate on the front, and one more of the latter."""
    assert best.figures is not None
    front = [each for each in find_front(trials) if each.point != best.point]
    faster = [each for each in front if each.figures and each.figures.standing < best.figures.standing]
    better = [each for each in front if each.figures and each.figures.drop < best.figures.drop]
    return [*faster[-1:], *better[:2]]


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


def find_reference_s(found: Sequence[Figures]) -> float:
    """What the standing reference takes: the median over sessions."""
    return statistics.median(each.latency_s / each.standing for each in found) if found else 1.0
