"""The one harness: candidates, images and options -> rows.

Every artifact is loaded in a process of its own. What was built is scored on a sample and timed in turns; what cannot
win any more leaves (`elimination.py`); the others see all images. Rows are on disk before the next batch size begins.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import reports
from compress import files, runtimes
from compress.evaluate.candidate import Candidate
from compress.evaluate.evaluation import Evaluation
from compress.evaluate.images import Images
from compress.evaluate.options import Options
from compress.evaluate.processes import Processes
from compress.evaluate.selection import mark_choice
from compress.measure import environment
from reports import Row

LARGEST_BATCH = 256  # that a break-even is looked for with
Say = Callable[[str], object]


def evaluate(candidates: Sequence[Candidate], images: Images, options: Options, say: Say) -> list[Row]:
    """Measures candidates on every device and at every batch size.

    Args:
        candidates: in the order of their rows. Dense ones first, that in torch at their head where there is one.
        say: takes lines for the person at the terminal.

    Returns:
        A row for each candidate, device and batch size; failed and eliminated ones say why. Where `options.out` holds
        rows of the same measurement, they are taken from there.
    """
    rows: list[Row] = []
    for device in options.devices:
        usable = [each for each in candidates if each.unavailable or device in each.runtime.devices()]
        rows += _evaluate_device(usable, images, options, device, say) if usable else ()
    return rows


def _evaluate_device(
    usable: Sequence[Candidate], images: Images, options: Options, device: str, say: Say
) -> Iterator[Row]:
    known = reports.latest(read_rows(options)) if options.out and not options.remeasure else []
    sizes = sorted({*options.batch_sizes, *_doubling(options)})
    with Processes(images, options, device, say) as processes:
        evaluation = Evaluation(usable, processes, None if options.exhaustive else options.goal)
        for batch_size in sizes:
            key = _group_key(usable, images, options, device, batch_size)
            rows = [row for row in known if row.key == key and not row.failed]
            if rows and len(rows) == len(usable):
                say(f"batch {batch_size} on {device}: measured before, taken from {options.out}/rows.jsonl")
            else:
                group = evaluation.measure(batch_size)
                rows = [*group.make_rows(key, first=batch_size == sizes[0])]
                if options.goal is not None:
                    rows = mark_choice(rows, [*map(options.goal.wanted, usable)], options.goal)
                write_rows(options, rows)
            yield from rows
            if options.break_even and batch_size >= max(options.batch_sizes) and all(map(_wins, rows)):
                return


def read_rows(options: Options) -> list[Row]:
    path = options.out / "rows.jsonl" if options.out else None
    return [] if path is None else reports.read_rows(path)


def write_rows(options: Options, rows: Sequence[Row]) -> None:
    """Appends rows to the run directory, where there is one."""
    if options.out and rows:
        files.append(options.out / "rows.jsonl", "\n".join(row.to_json() for row in rows))


def _doubling(options: Options) -> Iterable[int]:
    """Batch sizes that a break-even is looked for with."""
    size = 1
    while options.break_even and size <= LARGEST_BATCH:
        yield size
        size *= 2


def _wins(row: Row) -> bool:
    """Whether a row's speed-up is statistically significant, or it is not compared with anything."""
    return row.speedup_low is None or row.speedup_low > 1 or row.dense


def _group_key(
    usable: Sequence[Candidate], images: Images, options: Options, device: str, batch_size: int
) -> str:  # fmt: skip
    machine = environment.capture(device, options.threads, runtimes.list_packages())
    return files.key(
        [(each.key, each.name) for each in usable],
        images.fingerprint,
        [device, batch_size, options.seconds, options.precision],
        [machine[name] for name in ("versions", "cpu", "cpu_count", "threads")] + environment.name_gpu(machine),
    )
