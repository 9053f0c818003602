"""The bench: configuration -> variants -> candidates -> rows -> report.

models      trained, or found in the run directory (`compress/training`); the plain alternatives among them
candidates  one file a variant and runtime
rows        measured by the one harness (`compress/evaluate`), appended to OUT/rows.jsonl; the report is made from them
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

import reports
from baselines import device as devices
from baselines.data import Data
from baselines.errors import InputError
from compress import config, files, runtimes, settings
from compress.checkpoints.checkpoint import load as load_checkpoint
from compress.config import BenchConfig
from compress.evaluate import Candidate, Images, Options, describe_variant, evaluate, share_cost, take_test_images
from compress.evaluate.candidate import warn_of_few_images
from compress.evaluate.measurement import describe_failure
from compress.importers import Hints
from compress.measure import environment
from compress.runtimes import Runtime
from compress.training.build import make_artifact, make_variant
from compress.training.run import Run, open_run
from compress.variant import BASELINE, Variant
from compress.verbs import alternatives
from reports import Row

FILES = ("report.md", "report.html", "rows.jsonl", "rows.csv")  # of the run directory, with plots beside them
AUTO = ("torch", alternatives.COMPILED, "onnxruntime")


@dataclass(frozen=True)
class Request:
    """What a person asked for, resolved."""

    config: BenchConfig
    out: Path
    options: Options
    runtimes: tuple[str, ...] = ()  # empty: all that run a variant as it is meant
    checkpoint: Path | None = None
    tunes: bool = True  # whether methods that need no training fine-tune the model of `checkpoint` all the same
    plain: bool = True  # add the plain alternatives
    tensorboard: bool = False
    hints: Hints = field(default_factory=Hints)  # what the file of `checkpoint` does not say itself
    images: Data | None = None  # the data set itself, instead of the one that `config` names


def read_settings(
    path: Path | None, data: str | None, seed: int | None, init: Path | None, checkpoint: Path | None, hints: Hints
) -> BenchConfig:
    """Settings of the file or of a preset; those of the data set that a given checkpoint names, where nobody names one.

    Raises:
        InputError: they cannot be read, or nobody names a data set.
    """
    known = load_checkpoint(checkpoint, hints) if checkpoint is not None else None
    if known is not None and data is None and path is None:
        data = known.dataset or None
        if data is None:
            raise InputError(f"{checkpoint} records no dataset; pass one with --data PATH")
    return config.read(path, data, seed, init, hints, known.config if known else None)


def bench(request: Request, console: Console) -> list[Row]:
    """Runs the whole of it, and writes rows and report.

    Returns:
        The rows of this request, measured now or found; failed ones say why.

    Raises:
        InputError: for anything the person can put right.
    """
    wanted, engines, missing, run = open_bench(request, console)
    settings.keep(request.out, run.config)
    images = take_test_images(run.data)
    candidates: list[Candidate] = []
    for part in (wanted, alternatives.add_plain(request, wanted, candidates)):
        for which in part:
            candidates += _make_candidates(request, run, which, images, engines, missing)
    rows = evaluate(candidates, images, _complete_options(request, run), console.print)
    write_report(request.out)
    return rows


def open_bench(request: Request, console: Console) -> tuple[list[Variant], list[Runtime], dict[str, str], Run]:
    """Variants that were asked for, engines that take part, why others cannot, and the run directory; read, not made.

    Raises:
        InputError: as `bench`.
    """
    wanted = alternatives.list_variants(request)
    engines, missing = _list_engines(request, console)
    files.writable_folder(request.out)
    read_rows(request.out)  # what is broken there is better known now than after the training
    torch.set_num_threads(request.options.threads)
    environment.configure_allocator()
    device = devices.resolve("cuda" if "cuda" in request.options.devices else "cpu")
    run = open_run(
        request.config,
        request.out,
        device,
        console.print,
        request.checkpoint,
        hints=request.hints,
        images=request.images,
        tensorboard=request.tensorboard,
    )
    if run.start and not request.tunes:
        asked, wanted = wanted, [alternatives.keep_weights(each, run.start[0]) for each in wanted]
        names = [before.name for before, after in zip(asked, wanted, strict=True) if before != after]
        if names:
            console.print(f"{', '.join(names)}: not fine-tuned, as they work without; --epochs N fine-tunes them")
    return wanted, engines, missing, run


def _complete_options(request: Request, run: Run) -> Options:
    settings = {**run.config.model_dump(mode="json"), "model": run.geometry.model_dump(mode="json")}
    base, seed = run.baseline.name, run.config.seed
    return replace(request.options, out=request.out, base=base, seed=seed, config=settings)


def write_report(out: Path) -> list[Row]:
    """Makes tables, plots and pages again from the newest rows of a run.

    Raises:
        InputError: there are no rows, or the place cannot be written.
    """
    rows = reports.latest(read_rows(out))
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
    runs = {str(folder): reports.latest(read_rows(folder)) for folder in folders}
    for folder, rows in runs.items():
        if not rows:
            raise InputError(f"{folder} holds no rows.jsonl with measurements; give a run directory of compress bench")
    return runs


def write_comparison(runs: dict[str, list[Row]], out: Path) -> Path:
    """Writes what `compress report` says of several runs; the path of its page."""
    for name, content in reports.render_comparison(runs).items():
        files.write(out / name, content)
    return out / "comparison.md"


def read_rows(out: Path) -> list[Row]:
    """The rows of a run directory, or of all runs below it; raises RowError where a line is none."""
    own = out / "rows.jsonl"
    paths = [own] if own.exists() else sorted(out.rglob("rows.jsonl")) if out.is_dir() else []
    return [row for path in paths for row in reports.read_rows(path)]


def _list_engines(request: Request, console: Console) -> tuple[list[Runtime], dict[str, str]]:
    """The runtimes that may take part, and why others that should cannot.

    Raises:
        InputError: one that was asked for cannot be used here.
    """
    usable, missing = [], {}
    asked = request.options.devices
    for name in request.runtimes or AUTO:
        try:
            runtime = runtimes.get(name)
        except InputError as error:
            if request.runtimes:
                raise
            missing[name] = str(error)
            continue
        if set(runtime.devices()) & set(asked):
            usable.append(runtime)
        elif request.runtimes:
            raise InputError(f"--runtime {name} cannot use --device {','.join(asked)} here; compress doctor says why")
        elif request.plain:
            console.print(f"left out: {name} cannot be used here; compress doctor says why")
    return usable, missing


def _make_candidates(
    request: Request, run: Run, which: Variant, images: Images, engines: Sequence[Runtime], missing: dict[str, str]
) -> Iterator[Candidate]:
    """One for each runtime that runs a variant, or some that say why there is none."""
    facts = describe_variant(which)
    every = [*engines, *(runtimes.describe(name) for name in missing)]
    try:
        built = make_variant(run, which)
        facts = describe_variant(built.variant)
        cost = share_cost(lambda: built.restored[0], images)
        cost()  # which says whether the model runs at all
    except Exception as error:  # whatever it is: the other variants go on
        if not which.methods:
            raise
        run.say(f"{which.name} failed: {describe_failure(error)}")
        yield Candidate(**facts, runtime=every[0], build=Path, key="", unavailable=describe_failure(error))
        return
    chosen = [runtime for runtime in engines if fits(runtime, which, request)]
    for runtime in chosen:
        yield Candidate(
            **facts,
            runtime=runtime,
            build=partial(make_artifact, run, built, runtime),
            key=built.key,
            cost=cost,
            model=lambda: built.restored[0],
            record=built.path.with_name("training.jsonl"),
            notes=warn_of_few_images(which, min(run.config.calibration_images, len(run.data.train.labels))),
        )
    for name, reason in missing.items():
        runtime = runtimes.describe(name)
        yield Candidate(**facts, runtime=runtime, build=Path, key="", unavailable=reason)
    if not chosen and not missing:
        reason = f"its products are {which.dtype}, which {' and '.join(each.name for each in engines)} cannot compute"
        yield Candidate(**facts, runtime=every[0], build=Path, key="", unavailable=reason)


def fits(runtime: Runtime, which: Variant, request: Request) -> bool:
    """Whether a runtime runs a variant: as it is meant, or, where it was asked for, at least its arithmetic."""
    if runtime.calibrates_itself and which.methods and which.methods[-1].tuned:
        return False  # it would look for ranges again where training has found them
    if which.base != BASELINE and which.dtype == "int8" and not runtime.quantizes:
        return False  # what our own layers round, other architectures do not have
    if request.runtimes:
        return which.dtype in runtime.dtypes | runtime.simulated_dtypes
    compiled = runtime.name != alternatives.COMPILED or alternatives.is_compiled(request, which)
    return which.dtype in runtime.dtypes and compiled
