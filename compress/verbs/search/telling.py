"""What a search says: how far it is, what it found, what comes nearest."""

from collections.abc import Sequence

from rich.console import Console

from compress.evaluate import Images
from compress.outcome import Outcome
from compress.tables import show
from compress.verbs.plan import format_time
from compress.verbs.search.choice import Trial, find_front, find_nearest
from compress.verbs.search.request import Request
from compress.verbs.search.space import Space
from compress.verbs.search.wishes import OPTIONS, Figures, Wishes
from reports import Row

HEADINGS = ("candidate", "ms", "speed-up", "points of top-1", "MB")
SHOWN = 12  # lines of the front


def introduce(request: Request, images: Images, space: Space, before: int) -> str:
    """What begins, in a line."""
    known = f"; {before} trials were finished before" if before else ""
    methods = ", ".join(name for names in space.stages.values() for name in names) or "no method beside them"
    return (
        f"looking for {request.wishes.describe()}: {methods}; {len(space.lowerings)} ways of numbers and engines; "
        f"{len(images):,} images choose ({images.name}); at most about {format_time(request.budget_s)}{known}"
    )


def tell_progress(found: Sequence[Trial], before: int, best: Trial | None, left_s: float, console: Console) -> None:
    """A line for each trial, and one for where the search is."""
    for number, each in enumerate(found, before + 1):
        figures = each.figures
        told = f"impossible: {each.reason}" if figures is None else describe_figures(figures)
        console.print(f"{number}. {each.label or ', '.join(map(str, each.point.values()))}: {told}")
    so_far = "nothing meets the wishes yet"
    if best is not None and best.figures is not None:
        so_far = f"the best so far: {best.label}: {describe_figures(best.figures)}"
    console.print(f"{so_far}; about {format_time(max(left_s, 0))} left")


def describe_figures(found: Figures) -> str:
    """`1.23 ms (3.1x), -0.25 points, 0.9 MB`."""
    sample = "" if found.complete else " on a sample"
    return (
        f"{1e3 * found.latency_s:.3g} ms ({found.speedup:.2f}x), {describe_change(found.change)} points{sample}, "
        f"{1e-6 * found.file_bytes:.3g} MB"
    )


def describe_change(change: float) -> str:
    """In points, with its sign."""
    return f"{100 * change:+.2f}".replace("+0.00", "0").replace("-0.00", "0")


def justify(wishes: Wishes, row: Row, rows: Sequence[Row]) -> str:
    """Why a file is kept: what it is beside the dense model and the best plain row, on test images."""
    change = f"{describe_change(row.top1_change or 0)} points of top-1"
    if row.top1_change_low is not None and row.top1_change_high is not None:
        change += f" [{describe_change(row.top1_change_low)}, {describe_change(row.top1_change_high)}]"
    said = f"{1e3 * (row.latency_s or 0):.3g} ms, {row.overall or 1:.2f}x as fast as PyTorch fp32, {change}"
    plain = next((each for each in rows if not each.dense and each is not row and each.overall), None)
    if plain is not None and plain.overall and row.overall:
        said += f"; {row.overall / plain.overall:.2f}x as fast as {plain.label} in {plain.runtime}"
        said += f", which has {describe_change(plain.top1_change or 0)} points"
    aim = "the fastest" if wishes.max_drop is not None else "the most accurate"
    return f"kept: {row.label} in {row.runtime}: {aim} with {wishes.describe()}: {said}"


def explain_missed(name: str, short: float, row: Row) -> str:
    """That the winner misses a wish in the last measurement, though it met it before."""
    if name == "max_drop":
        low, high = -100 * (row.top1_change_high or 0), -100 * (row.top1_change_low or 0)
        return (
            f"it misses {OPTIONS[name]} on test images: it loses {-100 * (row.top1_change or 0):.2f} points "
            f"[{low:.2f}, {high:.2f}]; a lower --max-drop leaves more room"
        )
    return f"it misses {OPTIONS[name]} by {short:.1%} in the last measurement; run the same command again"


def compare_neighbours(winner: Trial, neighbours: Sequence[Trial]) -> list[str]:
    """`0.20 points more for 1.1 ms: NAME`, for each."""
    told, own = [], winner.figures
    for each in neighbours:
        figures = each.figures
        if own is None or figures is None:
            continue
        points, ms = 100 * (figures.change - own.change), 1e3 * (figures.latency_s - own.latency_s)
        gain, price = (f"{points:.2f} points more", f"{ms:.3g} ms") if points > 0 else (
            f"{-ms:.3g} ms less", f"{-points:.2f} points"
        )  # fmt: skip
        told.append(f"{gain} for {price}: {each.label}")
    return told


def show_front(trials: Sequence[Trial], console: Console) -> None:
    """A table of what is not beaten in speed and accuracy at once, on held-out images."""
    lines = []
    for each in find_front(trials)[:SHOWN]:
        if (found := each.figures) is not None:
            told = f"{1e3 * found.latency_s:.3g}", f"{found.speedup:.2f}x", describe_change(found.change)
            lines.append([each.label, *told, f"{1e-6 * found.file_bytes:.3g}"])
    show(console, "not beaten in speed and accuracy at once, on held-out images", lines, HEADINGS)


def report_nearest(request: Request, done: Sequence[Trial], console: Console) -> Outcome:
    """Says what comes nearest to each wish where nothing meets all of them; the outcome of the search."""
    nearest = find_nearest(done, request.wishes)
    console.print(f"nothing that was tried has {request.wishes.describe()}, within what a measurement can tell")
    told = {}
    for name, (each, meets) in nearest.items():
        if each.figures is not None:
            others = " and ".join(OPTIONS[other] for other in nearest if other != name)
            rest = f", of what meets {others}" if meets else f", and nothing meets {others}"
            told[OPTIONS[name]] = f"{each.label}: {describe_figures(each.figures)}"
            console.print(f"nearest to {OPTIONS[name]}{rest if others else ''}: {told[OPTIONS[name]]}")
    rows = request.folder / "rows.jsonl"
    console.print(f"so no file was written; every trial: {rows} and {request.folder / 'report.html'}")
    return Outcome(facts={"nearest": told}, written=[rows], exit_code=1)
