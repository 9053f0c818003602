"""The last measurement: the best few side by side on held-out images, then the winner alone on test images.

Both are one evaluation each, with the dense model and the best plain row in it. What the first says decides; nothing is
decided by test images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console

from baselines.data import Data
from compress.evaluate import Candidate, Images, take_test_images
from compress.evaluate.harness import read_rows, write_rows
from compress.training.build import Built
from compress.verbs.search import telling
from compress.verbs.search.choice import Trial, find_neighbours, rank
from compress.verbs.search.measuring import Measuring
from compress.verbs.search.request import Request
from compress.verbs.search.space import Space, identify
from compress.verbs.search.wishes import Figures
from reports import Row

FINALISTS = 3  # that are timed side by side


@dataclass(frozen=True)
class Measured:
    """A trial that was measured anew."""

    trial: Trial  # with its new figures
    built: Built
    candidate: Candidate
    row: Row


@dataclass(frozen=True)
class Final:
    """What the search came to.

    Attributes:
        winner: as it was measured on held-out images.
        built, candidate: the winner's; its artifact is there.
        rows: of test images: the dense model, the best plain row where it is another, the winner last.
        missed: what the winner misses of the wishes there, by their names in `Wishes`.
        neighbours: what stands beside the winner, measured with it.
    """

    winner: Trial
    built: Built
    candidate: Candidate
    rows: list[Row]
    missed: dict[str, float]
    neighbours: list[Trial]


def conclude(
    request: Request, measuring: Measuring, done: Sequence[Trial], tested: Data, console: Console
) -> Final | list[Trial]:
    """Chooses, and measures what was chosen; all trials as they were measured last, where nothing meets the wishes.

    Args:
        measuring: with the options of the last measurement.
    """
    ranked = rank(done, request.wishes)
    if not ranked:
        return [*done]
    plain = find_plain(done, measuring.space)
    beside = find_neighbours(done, ranked[0])
    known = [*ranked[:FINALISTS], *beside, *([plain] if plain else [])]
    finalists = [each for index, each in enumerate(known) if each not in known[:index]]
    console.print(f"measuring the {len(finalists)} best side by side, then the winner on test images")
    fresh, _ = _measure(measuring, finalists, measuring.images)
    chosen = rank([each.trial for each in fresh], request.wishes)
    if not chosen:
        newest = {identify(each.point): each for each in (*done, *(each.trial for each in fresh))}
        return [*newest.values()]
    winner = chosen[0]
    compared = [plain] if plain is not None and plain.point != winner.point else []
    measured, rows = _measure(measuring, [*compared, winner], take_test_images(tested))
    last = next((each for each in measured if each.trial.point == winner.point), None)
    if last is None:
        raise RuntimeError(f"{winner.label} could not be measured on test images; the same command tries again")
    row = replace(last.row, chosen=telling.justify(request.wishes, last.row, rows))
    before = [replace(each, chosen=None) for each in read_rows(measuring.options) if each.chosen]  # by other wishes
    write_rows(measuring.options, [*before, row])  # the newest of the same counts
    figures = Figures.read(row)
    short = request.wishes.measure_shortfalls(figures, cautious=False) if figures else {}
    missed = {name: value for name, value in short.items() if value > 0}
    neighbours = find_neighbours([each.trial for each in fresh], winner)
    others = [each for each in rows if each is not last.row]
    return Final(winner, last.built, last.candidate, [*others, row], missed, neighbours)


def find_plain(done: Sequence[Trial], space: Space) -> Trial | None:
    """The fastest that takes no thought: the model as it is in int8, in its best engine; in other numbers without."""
    starts = space.list_starts()
    plain = [each for each in done if each.point in starts and each.figures]
    integers = [each for each in plain if space.read(each.point)[0].dtype == "int8"]
    return min(integers or plain, key=lambda each: each.figures.standing if each.figures else 0.0, default=None)


def _measure(measuring: Measuring, trials: Sequence[Trial], images: Images) -> tuple[list[Measured], list[Row]]:
    """Those trials that could be measured, and all rows, that of the dense model first."""
    made = [(each, *measuring.make_point(each.point, tuned=each.tuned, images=images)) for each in trials]
    rows = measuring.evaluate([candidate for _, _, candidate in made], images)
    found = []
    for trial, built, candidate in made:
        row = rows[candidate.name]
        if (figures := Figures.read(row)) is not None:
            found.append(Measured(replace(trial, figures=figures), built, candidate, row))
    return found, [*rows.values()]
