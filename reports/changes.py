"""The cells of a comparison: of two runs, what each row was and is, and what is called a difference."""

from collections.abc import Callable

from reports.runs import Change, exact_times
from reports.significance import ALPHA, NO_DIFFERENCE
from reports.text import figure, p_value, percent

NOISE = (
    "Intervals hold the rounds within each run and the variance between runs: what is known of it, or what these two "
    "runs show where that is more."
)
RELATIVE = (
    "After / before is of latencies relative to the standing reference, a fixed amount of arithmetic that each run "
    "timed in turns with the rest: a machine that was slower in one run cancels out."
)
RAW = (
    "Rows without a standing reference are compared in seconds; a machine that was slower in one run does not cancel "
    "out, and the variance between runs is taken to be larger."
)
LOADED = "Rows that were measured under load have wider intervals."
UNDER_LOAD = "not clear (measured under load)"
LATENCY = ["batch", "before ms", "after ms", "after / before [95 %]", "latency"]
SPEED = ["batch", "before", "after", "after / before [95 %]", "speed-up"]
ACCURACY = ["before %", "after %", "points", "accuracy", "macro recall before %", "macro recall after %"]
COSTS = ["batch", "MMACs/image", "params M", "file MB"]
SPEED_NOTE = (
    "A slower machine cancels out here. The interval combines those of both speed-ups and the variance between runs."
)
ACCURACY_NOTE = (
    f"Two proportions, unpaired; p < {ALPHA} is called a difference. On the same test images this errs on the side "
    "of seeing none. Macro recall: the mean over the classes of the share got right, each counting the same."
)


def with_batch(cells: Callable[[Change], list[str]]) -> Callable[[Change], list[str]]:
    """The same with the batch size in front."""
    return lambda change: [str(change.new.batch_size), *cells(change)]


def describe_time(change: Change) -> str:
    return UNDER_LOAD if change.disturbed and change.time == NO_DIFFERENCE else change.time


def explain_times(changes: list[Change]) -> str:
    timed = [change for change in changes if change.latency]
    notes = [NOISE] if timed else []
    notes += [RELATIVE] if any(change.relative for change in timed) else []
    notes += [RAW] if any(not change.relative for change in timed) else []
    return " ".join([*notes, *([LOADED] if any(change.disturbed for change in timed) else [])])


def time_cells(change: Change) -> list[str]:
    said = describe_time(change) or ("another machine" if change.old.device_name != change.new.device_name else "")
    latencies = [figure(row.latency_s, 1e-3) for row in (change.old, change.new)]
    return [*latencies, exact_times(change.latency), said]


def speed_cells(change: Change) -> list[str]:
    rows = change.old, change.new
    return [*(f"{row.speedup:.3f}" for row in rows if row.speedup), exact_times(change.speedup), change.speed]


def accuracy_cells(change: Change) -> list[str]:
    old, new = change.old, change.new
    points = "" if old.top1 is None or new.top1 is None else f"{100 * (new.top1 - old.top1):+.2f}"
    said = change.accuracy + (f" ({p_value(change.accuracy_p)})" if change.accuracy_p is not None else "")
    top1 = [percent(row.top1, row.n_images) for row in (old, new)]
    macro = [percent(row.macro_recall, row.n_images) for row in (old, new)]
    return [*top1, points, said, *macro]


def list_costs(change: Change) -> list[tuple[float, float | None, float | None]]:
    """Of each cost its display unit, before and after."""
    old, new = change.old, change.new
    return [
        (1e6, old.macs_per_image, new.macs_per_image),
        (1e6, old.params, new.params),
        (1e6, old.file_bytes, new.file_bytes),
    ]


def cost_cells(change: Change) -> list[str]:
    cells = []
    for unit, was, now in list_costs(change):
        share = f" ({100 * (now / was - 1):+.1f} %)" if was and now else ""
        cells.append("" if was == now else f"{figure(was, unit) or '?'} → {figure(now, unit) or '?'}{share}")
    return cells
