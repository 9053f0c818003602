"""Which file is kept, and why: decided by rows alone, so that old ones can be judged again."""

from collections.abc import Sequence
from dataclasses import replace

from compress.evaluate.elimination import ALPHA, LOSS, TIE
from compress.evaluate.options import Goal
from reports import Row


def mark_choice(rows: Sequence[Row], wanted: Sequence[bool], goal: Goal) -> list[Row]:
    """The same rows; the one that is kept says why in `chosen`.

    Args:
        wanted: for each row whether the choice is among it.
    """
    best, why = choose([row for row, one in zip(rows, wanted, strict=True) if one], rows, goal)
    return [replace(row, chosen=why) if row is best else row for row in rows]


def choose(among: Sequence[Row], rows: Sequence[Row], goal: Goal) -> tuple[Row | None, str]:
    """The row to keep, and a sentence that says why; None, and why not, where none is good enough."""
    limit = LOSS if goal.max_drop is None else goal.max_drop
    complete = [row for row in among if row.completed and row.overall is not None]
    good, kind = [row for row in complete if keeps_accuracy(row, goal)], _name_kind(among)
    if not good:
        least = max(complete, key=lambda row: row.top1_change or 0, default=None)
        lost = "none could be made"
        if least is not None:
            lost = f"the least that one lost is {-100 * (least.top1_change or 0):.2f} ({name_recipe(least)})"
        elif any(row.completed for row in among):
            lost = "the model in torch, which all are compared with, could not be measured"
        return None, f"no {kind} file loses at most {limit * 100:g} points on these images: {lost}"
    fastest = max(good, key=lambda row: row.overall or 0)
    near = [row for row in good if (row.overall or 0) >= (1 - TIE) * (fastest.overall or 0)]
    best = max(near, key=lambda row: row.sqnr_db or 0)
    reasons = [f"the fastest of {len(among)} {kind} files" if best is fastest else (
        f"as fast as {name_recipe(fastest)} within {TIE:.0%}, and nearer to the float model"
    )]  # fmt: skip
    if rejected := len(complete) - len(good):
        reasons.append(f"{rejected} lost more than {limit * 100:g} points and do not count")
    return best, f"kept: {name_recipe(best)}: {'; '.join([*reasons, *_compare_rival(best, among, rows)])}"


def keeps_accuracy(row: Row, goal: Goal) -> bool:
    """Whether a row loses no more top-1 than is allowed; see `Goal`. What has no labels loses nothing that is known."""
    drop = -(row.top1_change or 0)
    if goal.max_drop is not None:
        return drop <= goal.max_drop
    return drop <= LOSS or (row.mcnemar_p is not None and row.mcnemar_p >= ALPHA)


def _name_kind(among: Sequence[Row]) -> str:
    return "8-bit" if any(row.dtype == "fp8" for row in among) else "integer"


def name_recipe(row: Row) -> str:
    return f"{row.runtime}: {row.recipe or row.dtype or row.variant}"


def _compare_rival(best: Row, among: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """How it compares with the best that needs no integers; every rival was measured in the same session."""
    rivals = [row for row in rows if row.overall is not None and row.failed is None and row not in among]
    rival = max(rivals, key=lambda row: row.overall or 0, default=None)
    if rival is None or not rival.overall or not best.overall:
        return []
    ratio = best.overall / rival.overall
    if ratio >= 1 + TIE:
        others = "without integers" if _name_kind(among) == "integer" else "in more bits"
        return [f"{ratio:.2f}x as fast as the fastest {others} ({name_recipe(rival)})"]
    return [f"but no faster than {name_recipe(rival)} here ({ratio:.2f}x): what it saves is size"]
