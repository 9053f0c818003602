"""Which classes a compressed model still recognises."""

from dataclasses import dataclass

from reports.results import group_rows
from reports.row import Row

MOST = 30  # classes that a table or plot shows; more are unreadable


@dataclass(frozen=True)
class Recalls:
    """Of one dataset: the share of each class's test images that each model got right."""

    dataset: str
    classes: list[str]  # those shown
    left_out: int  # classes that are not shown
    images: list[int | None]  # test images of each class shown; None where no row tells
    models: dict[str, tuple[str, list[float | None]]]  # by variant: runtime, and shares in the order of `classes`
    whole: dict[str, Row]  # by variant: the row they are from, which knows all classes


def recalls(rows: list[Row]) -> list[Recalls]:
    """One for each dataset; each variant is there once, in the first of its runtimes.

    Of more than `MOST` classes those are shown that the models differ about most, or know least where there is one.
    """
    found = []
    for dataset in dict.fromkeys(row.dataset for row in rows if row.class_recall):
        here = [row for row in rows if row.dataset == dataset and row.class_recall]
        names = next((row.classes for row in here if row.classes), None) or []
        count = max(len(row.class_recall or []) for row in here)
        if len(names) != count:
            names = [f"class {i}" for i in range(count)]
        models: dict[str, tuple[str, list[float | None]]] = {}
        whole: dict[str, Row] = {}
        for row in here:
            if row.class_recall and len(row.class_recall) == count:
                models.setdefault(row.label, (row.runtime, row.class_recall))
                whole.setdefault(row.label, row)
        shown = _most_telling([values for _, values in models.values()], count)
        sizes = next(([sum(line) for line in row.confusion] for row in here if row.confusion), [])
        images = [sizes[i] if len(sizes) == count else None for i in shown]
        kept = {name: (runtime, [values[i] for i in shown]) for name, (runtime, values) in models.items()}
        found.append(Recalls(dataset, [names[i] for i in shown], count - len(shown), images, kept, whole))
    return found


def _most_telling(models: list[list[float | None]], count: int) -> list[int]:
    if count <= MOST:
        return list(range(count))

    def spread(i: int) -> float:
        known = [value for model in models if (value := model[i]) is not None]
        if not known:
            return -2.0
        return max(known) - min(known) if len(models) > 1 else -known[0]

    return sorted(sorted(range(count), key=lambda i: (-spread(i), i))[:MOST])


def confused(rows: list[Row]) -> list[Row]:
    """Rows with a confusion matrix, at most four a dataset and one a variant: baseline, winners, others."""
    chosen: list[Row] = []
    usable = [
        row
        for row in rows
        if row.confusion and row.classes and {len(row.classes)} == {len(row.confusion), *map(len, row.confusion)}
    ]
    winners = {winner.row.label for group in group_rows(rows) for winner in group.winners}

    def rank(row: Row) -> int:
        return 0 if row.dense else 1 if row.label in winners else 2

    for row in sorted(usable, key=rank):
        here = [other for other in chosen if other.dataset == row.dataset]
        if len(here) < 4 and row.label not in {other.label for other in here}:
            chosen.append(row)
    return chosen
