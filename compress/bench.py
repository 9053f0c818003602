"""The bench: configuration -> variants -> rows -> tables.

models      trained, or found in the run directory (`workshop.py`)
artifacts   one file a variant and runtime, checked against its model
accuracy    all test images through that artifact
latency     all artifacts of a device in turns, one group for each batch size
rows        appended to OUT/rows.jsonl as soon as a group is measured; the report is made from them
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

import reports
from baselines import device as devices
from baselines.errors import InputError
from compress import files, runtimes, variant
from compress.export import ParityError
from compress.measure import accuracy, cost, environment, latency
from compress.measure.latency import Timing
from compress.rows import Candidate, Group, Loaded, Request, failed_row
from compress.runtimes import Runtime, Session
from compress.variant import BASELINE, Variant
from compress.workshop import Workshop
from reports import Row

TIMED_BATCHES = 8  # different batches of test images that latency goes through


def bench(request: Request, console: Console) -> list[Row]:
    """Runs the whole of it, and writes rows and report.

    Returns:
        The rows of this request, measured now or found; failed ones say why.

    Raises:
        InputError: for anything the person can put right.
    """
    wanted = [variant.parse(name, request.config.methods) for name in (BASELINE, *request.config.variants)]
    wanted = list({each.name: each for each in wanted}.values())
    known = [runtimes.get(name) for name in request.runtimes]
    for runtime in known:
        if not set(runtime.devices()) & set(request.devices):
            raise InputError(f"--runtime {runtime.name} cannot use --device {','.join(request.devices)} here")
    files.writable_folder(request.out)
    _old_rows(request.out)  # what is broken there is better known now than after the training
    torch.set_num_threads(request.threads)
    environment.settle_allocator()
    training_device = devices.resolve("cuda" if "cuda" in request.devices else "cpu")
    workshop = Workshop(request.config, request.out, training_device, console.print, request.checkpoint)

    candidates: list[Candidate] = []
    rows: list[Row] = []
    for each in wanted:
        try:
            candidates += _build(workshop, each, known)
        except (ParityError, RuntimeError, FloatingPointError) as error:
            if each.name == BASELINE:
                raise
            console.print(f"{each.name} failed: {error}")
            rows.append(failed_row(request, workshop, each, str(error)))
    for device in request.devices:
        rows += _measure(request, workshop, candidates, device, console)
    for row in rows:
        if row.failed:
            files.append(request.out / "rows.jsonl", row.to_json())
    write_report(request.out)
    return rows


def write_report(out: Path) -> list[Row]:
    """Makes tables, plot and page again from the newest rows of a run.

    Raises:
        InputError: there are no rows, or the place cannot be written.
    """
    rows = reports.latest(_old_rows(out))
    if not rows:
        raise InputError(f"{out} holds no rows.jsonl with measurements; make some with: compress bench --out {out}")
    for name, content in reports.render(rows).items():
        files.write(out / name, content)
    return rows


def _build(workshop: Workshop, each: Variant, known: list[Runtime]) -> Iterator[Candidate]:
    built = workshop.make(each)
    spent = cost.measure(variant.restore(built.path)[0], workshop.data)
    fitting = [runtimes.get(name) for name in runtimes.RUNTIMES]
    for runtime in known or [each_ for each_ in fitting if not (each.integer and each_.simulates_integers)]:
        yield Candidate(built, runtime, workshop.artifact(built, runtime), spent)


def _measure(
    request: Request, workshop: Workshop, candidates: list[Candidate], device: str, console: Console
) -> Iterator[Row]:
    """Accuracy once, then latency for each batch size; rows are on disk before the next group starts."""
    usable = [candidate for candidate in candidates if device in candidate.runtime.devices()]
    pending: dict[int, str] = {}
    for batch_size in request.batch_sizes:
        key = _group_key(request, workshop, usable, device, batch_size)
        found = [row for row in reports.latest(_old_rows(request.out)) if row.key == key]
        if len(found) == len(usable) and not request.remeasure:
            console.print(f"batch {batch_size} on {device}: measured before, taken from {request.out}/rows.jsonl")
            yield from found
        else:
            pending[batch_size] = key
    if not pending:
        return
    console.print(f"scoring {len(workshop.data.test.labels)} test images on {device}")
    loaded: list[Loaded] = []
    for candidate in usable:
        try:
            loaded.append(_load(request, workshop, candidate, device))
        except RuntimeError as error:
            if not candidate.built.variant.methods:
                raise
            console.print(f"{candidate.built.variant.name} failed in {candidate.runtime.name}: {error}")
            yield failed_row(request, workshop, candidate.built.variant, str(error))
    for batch_size, key in pending.items():
        console.print(f"timing batches of {batch_size} on {device}, in turns")
        group = Group(request, workshop, device, batch_size, key, loaded, _time(request, workshop, loaded, batch_size))
        for row in group.rows():
            files.append(request.out / "rows.jsonl", row.to_json())
            yield row


def _load(request: Request, workshop: Workshop, candidate: Candidate, device: str) -> Loaded:
    session = candidate.runtime.load(candidate.artifact, device, request.threads)
    predicted = accuracy.predict(lambda images: session.get(session.run(session.put(images))), workshop.data)
    return Loaded(candidate, session, *candidate.runtime.inspect(candidate.artifact), predicted)


def _time(request: Request, workshop: Workshop, loaded: list[Loaded], batch_size: int) -> list[Timing]:
    batches = _test_batches(workshop, batch_size)
    contestants = {}
    for index, each in enumerate(loaded):
        native = [each.session.put(images) for images in batches]
        contestants[str(index)] = partial(_run_batch, each.session, native)
    timings = latency.interleave(contestants, budget_s=request.seconds)
    return [timings[str(index)] for index in range(len(loaded))]


def _run_batch(session: Session, native: list[object], number: int) -> None:
    session.run(native[number % len(native)])


def _test_batches(workshop: Workshop, batch_size: int) -> list[np.ndarray]:
    """Batches of test images, spread over the test set; images come again where it is smaller than a batch."""
    n = len(workshop.data.test.labels)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    order = order.repeat(-(-batch_size // n))
    chosen = order[: max(len(order) // batch_size, 1) * batch_size][: batch_size * TIMED_BATCHES]
    batches = workshop.data.batches(workshop.data.test, batch_size, torch.device("cpu"), indices=chosen)
    return [images.numpy() for images, _ in batches]


def _group_key(request: Request, workshop: Workshop, usable: list[Candidate], device: str, batch_size: int) -> str:
    machine = environment.capture(device, request.threads)
    return files.key(
        [(candidate.built.key, candidate.runtime.name) for candidate in usable],
        workshop.data.fingerprint,
        [device, batch_size, request.seconds],
        [machine[name] for name in ("versions", "cpu", "cpu_count", "threads")],
    )


def _old_rows(out: Path) -> list[Row]:
    found = sorted(out.rglob("rows.jsonl")) if out.is_dir() else []
    return [
        row
        for path in found
        for row in reports.parse_rows(path.read_text(encoding="utf-8", errors="replace"), str(path))
    ]
