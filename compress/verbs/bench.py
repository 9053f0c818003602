"""The bench: configuration -> variants -> rows -> tables.

models      trained, or found in the run directory (`workshop.py`); the plain alternatives among them (`plain.py`)
artifacts   one file a variant and runtime, checked against its model
accuracy    all test images through that artifact, in a process of its own (`contest.py`)
latency     all artifacts of a device in turns, one group for each batch size
rows        appended to OUT/rows.jsonl as soon as a group is measured; the report is made from them
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console

import reports
from baselines import device as devices
from baselines.errors import InputError
from compress import files, loading, runtimes
from compress.evaluate.contest import Contest
from compress.evaluate.rows import Candidate, Request, failed_row
from compress.measure import cost, environment
from compress.runtimes import Runtime
from compress.training.workshop import Workshop
from compress.variant import BASELINE, Variant
from compress.verbs import alternatives as plain
from reports import Row

AUTO = ("torch", plain.COMPILED, "onnxruntime")
LARGEST_BATCH = 256  # that a break-even is looked for with


def bench(request: Request, console: Console) -> list[Row]:
    """Runs the whole of it, and writes rows and report.

    Returns:
        The rows of this request, measured now or found; failed ones say why.

    Raises:
        InputError: for anything the person can put right.
    """
    wanted = plain.asked(request)
    engines, missing = _engines(request, console)
    files.writable_folder(request.out)
    _old_rows(request.out)  # what is broken there is better known now than after the training
    torch.set_num_threads(request.threads)
    environment.settle_allocator()
    training_device = devices.resolve("cuda" if "cuda" in request.devices else "cpu")
    workshop = Workshop(
        request.config,
        request.out,
        training_device,
        console.print,
        request.checkpoint,
        tensorboard=request.tensorboard,
        hints=request.hints,
    )

    made: list[Candidate] = []
    rows: list[Row] = []
    for part in (wanted, plain.variants(request, wanted, made)):
        for each in part:
            for result in _build(request, workshop, each, engines, missing):
                if isinstance(result, Candidate):
                    made.append(result)
                else:
                    rows.append(_failure(request, console, result))
    for device in request.devices:
        rows += _measure(request, workshop, made, device, console)
    write_report(request.out)
    return rows


def write_report(out: Path) -> list[Row]:
    """Makes tables, plots and pages again from the newest rows of a run.

    Raises:
        InputError: there are no rows, or the place cannot be written.
    """
    rows = reports.latest(_old_rows(out))
    if not rows:
        raise InputError(f"{out} holds no rows.jsonl with measurements; make some with: compress bench --out {out}")
    for name, content in reports.render(rows).items():
        files.write(out / name, content)
    return rows


def read_runs(folders: Sequence[Path]) -> dict[str, list[Row]]:
    """The newest rows of several runs, under the names of their folders.

    Raises:
        InputError: one has no rows, or is named twice.
    """
    if len(set(folders)) < len(folders):
        raise InputError("a run was named twice; give each run directory once")
    found = {str(folder): reports.latest(_old_rows(folder)) for folder in folders}
    for folder, rows in found.items():
        if not rows:
            raise InputError(f"{folder} holds no rows.jsonl with measurements; give a run directory of compress bench")
    return found


def write_comparison(found: dict[str, list[Row]], out: Path) -> Path:
    """Writes what `compress report` says of several runs; the path of its page."""
    for name, content in reports.render_comparison(found).items():
        files.write(out / name, content)
    return out / "comparison.md"


def _engines(request: Request, console: Console) -> tuple[list[Runtime], dict[str, str]]:
    """The runtimes that may take part, and why others that should cannot.

    Raises:
        InputError: one that was asked for cannot be used here.
    """
    found, missing = [], {}
    for name in request.runtimes or AUTO:
        try:
            runtime = runtimes.get(name)
        except InputError as error:
            if request.runtimes:
                raise
            missing[name] = str(error)
            continue
        if set(runtime.devices()) & set(request.devices):
            found.append(runtime)
        elif request.runtimes:
            raise InputError(
                f"--runtime {name} cannot use --device {','.join(request.devices)} here; compress doctor says why"
            )
        elif request.plain:
            console.print(f"left out: {name} cannot be used here; compress doctor says why")
    return found, missing


def _build(
    request: Request, workshop: Workshop, each: Variant, engines: Sequence[Runtime], missing: dict[str, str]
) -> Iterator[Candidate | Row]:
    """The artifacts of a variant, one for each runtime that runs it, or rows that say why there is none."""
    try:
        built = workshop.make(each)
        spent = cost.measure(loading.restore(built.path)[0], workshop.data)
    except (RuntimeError, FloatingPointError) as error:
        if not each.methods:
            raise
        yield failed_row(request, workshop, each, str(error))
        return
    chosen = [runtime for runtime in engines if _fits(runtime, each, request)]
    for runtime in chosen:
        try:
            yield Candidate(built, runtime, workshop.artifact(built, runtime), spent)
        except RuntimeError as error:
            yield failed_row(request, workshop, each, str(error), runtime.name)
    for name, reason in missing.items():
        yield failed_row(request, workshop, each, reason, name)
    if not chosen and not missing:
        names = " and ".join(runtime.name for runtime in engines)
        yield failed_row(request, workshop, each, f"its products are {each.numbers}, which {names} cannot compute")


def _fits(runtime: Runtime, each: Variant, request: Request) -> bool:
    """Whether a runtime runs a variant: as it is meant, or, where it was asked for, at least its arithmetic."""
    if runtime.own_ranges and each.methods and each.methods[-1].tuned:
        return False  # it would look for ranges again where training has found them
    if each.base != BASELINE and each.numbers == "int8" and not runtime.quantises:
        return False  # what our own layers round, other architectures do not have
    if request.runtimes:
        return each.numbers in runtime.numbers | runtime.simulates
    return each.numbers in runtime.numbers and (runtime.name != plain.COMPILED or plain.compiled(request, each))


def _measure(
    request: Request, workshop: Workshop, made: Sequence[Candidate], device: str, console: Console
) -> Iterator[Row]:
    """Accuracy once, then latency for each batch size; rows are on disk before the next group starts."""
    usable = [candidate for candidate in made if device in candidate.runtime.devices()]
    known = reports.latest(_old_rows(request.out))
    sizes = sorted({*request.batch_sizes, *_doubling(request)})
    with Contest(request, workshop, device, request.batch_sizes, console.print) as contest:
        for batch_size in sizes:
            key = _group_key(request, workshop, usable, device, batch_size)
            rows = [row for row in known if row.key == key and not row.failed]
            if len(rows) == len(usable) and not request.remeasure:
                console.print(f"batch {batch_size} on {device}: measured before, taken from {request.out}/rows.jsonl")
            else:
                if not contest.loaded:
                    console.print(f"starting {len(usable)} artifacts and scoring all test images on {device}")
                    for candidate, reason in contest.load(usable):
                        row = failed_row(
                            request, workshop, candidate.built.variant, reason, candidate.runtime.name, device
                        )
                        yield _failure(request, console, row)
                console.print(f"timing batches of {batch_size} on {device}, in turns")
                rows = list(contest.group(batch_size, key, first=batch_size == sizes[0]).rows())
                files.append(request.out / "rows.jsonl", "\n".join(row.to_json() for row in rows))
            yield from rows
            if request.break_even and batch_size >= max(request.batch_sizes) and all(map(_wins, rows)):
                return


def _doubling(request: Request) -> Iterable[int]:
    """Batch sizes that a break-even is looked for with."""
    size = 1
    while request.break_even and size <= LARGEST_BATCH:
        yield size
        size *= 2


def _wins(row: Row) -> bool:
    """Whether a row is faster than the dense model beyond doubt, or is not compared with it."""
    return row.speedup_low is None or row.speedup_low > 1 or not row.methods


def _failure(request: Request, console: Console, row: Row) -> Row:
    console.print(f"{row.variant} in {row.runtime} failed: {row.failed}")
    files.append(request.out / "rows.jsonl", row.to_json())
    return row


def _group_key(request: Request, workshop: Workshop, usable: Sequence[Candidate], device: str, batch_size: int) -> str:
    machine = environment.capture(device, request.threads)
    return files.key(
        [(candidate.built.key, candidate.runtime.name) for candidate in usable],
        workshop.data.fingerprint,
        [device, batch_size, request.seconds, request.precision],
        [machine[name] for name in ("versions", "cpu", "cpu_count", "threads")],
    )


def _old_rows(out: Path) -> list[Row]:
    found = sorted(out.rglob("rows.jsonl")) if out.is_dir() else []
    return [
        row
        for path in found
        for row in reports.parse_rows(path.read_text(encoding="utf-8", errors="replace"), str(path))
    ]
