"""`compress search CHECKPOINT`: wishes -> the file that meets them best on this machine.

space.py       what there is to try, as methods declare it
lowerings.py   numbers and engines, as runtimes declare them
trials.py      what was tried, in a database of Optuna
proposals.py   what is tried next
measuring.py   a point -> figures, by the one harness
held_out.py    the images that choose
wishes.py      bounds, and how far from them a candidate is
choice.py      the best, the nearest, the neighbours
final.py       the best few once more, then the winner on test images
keeping.py     files of the winner, and the settings that make it again
telling.py     sentences

A search differs from a sweep: `compress sweep` trains dense models with other hyperparameters; a search compresses one
that is trained.
"""

import time
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console

from baselines import device as devices
from baselines.data import Data
from baselines.errors import InputError
from baselines.vit import VisionTransformer
from compress import files, loading, runtimes
from compress.checkpoints import checkpoint
from compress.config import BenchConfig
from compress.evaluate import Options, take_test_images
from compress.measure import environment
from compress.outcome import Outcome, Stopped
from compress.storage import database, open_storage
from compress.training.data import load_data
from compress.training.run import Run, open_run
from compress.verbs.bench import write_report
from compress.verbs.plan import time_model
from compress.verbs.search import final, keeping, telling
from compress.verbs.search.choice import find_best
from compress.verbs.search.held_out import HeldOut, hold_out_images
from compress.verbs.search.lowerings import list_engines
from compress.verbs.search.measuring import Measuring
from compress.verbs.search.request import Request, read_settings
from compress.verbs.search.space import Space, make_space
from compress.verbs.search.trials import Trials

__all__ = ["Request", "search"]

TOGETHER = 4  # trials that are timed in turns
SHORT_S = 3.0  # of timing them, at most
FINAL_S = 30.0  # of the last measurement, beside timing and scoring
STORAGE = "search.log"


def search(request: Request, console: Console) -> Outcome:
    """Tries points until the time is used up, measures the best anew, and writes its files.

    Returns:
        Its exit code is 1 where nothing meets all wishes; the rows are kept then, and no file is written.

    Raises:
        InputError: checkpoint, data or options cannot be used.
        Stopped: Ctrl-C or a signal ended it; the same command goes on.
    """
    started = time.monotonic()
    torch.set_num_threads(request.threads)
    environment.configure_allocator()
    files.writable_folder(request.folder)
    settings, run, held, tested = open_search(request, console)
    assert run.start is not None
    assert isinstance(run.start[0], VisionTransformer)
    keeping.check_targets(request, len(tested.test.labels), console)
    space = make_space(
        run.start[0], settings.methods, list_engines(request.runtimes, request.device), request.epochs, request.methods
    )
    images = take_test_images(held.data, request.held_out)
    options = make_options(request, run)
    measuring = Measuring(run, space, images, replace(options, seconds=min(SHORT_S, request.seconds)), request.wishes)
    where = request.storage or str(request.folder / STORAGE)
    with database(where):
        trials = Trials(open_storage(where), _make_key(request, run, images.fingerprint, space), space, run.config.seed)
    try:
        with database(where):
            console.print(telling.introduce(request, images, space, len(trials.list_done())))
            _try(request, trials, measuring, started, len(tested.test.labels), console)
            done = trials.list_done()
        telling.show_front(done, console)
        measuring.options = options
        found = final.conclude(request, measuring, done, tested, console)
    except KeyboardInterrupt:
        kept = f"{len(trials.list_done())} finished trials are kept in {where}"
        raise Stopped(f"{kept}: run the same command again to resume") from None
    write_report(request.folder)
    if isinstance(found, list):
        return telling.report_nearest(request, found, console)
    return keeping.keep(request, settings, found, console)


def open_search(request: Request, console: Console) -> tuple[BenchConfig, Run, HeldOut, Data]:
    """Settings, the run directory with held-out images in place of test images, those, and the data set itself."""
    _, which, content = loading.restore_vit(request.path, request.hints)
    if which.methods:
        raise InputError(f"{request.path} is already {which.name!r}; give the checkpoint of a dense float model")
    settings = read_settings(request, content)
    shape, place = content.config, request.path.parent
    further: dict[str, Any] = {"resizing": content.resizing, "skip_unreadable": settings.skip_unreadable}
    named = request.images or settings.data
    data = load_data(named, shape.image_size, shape.channels, place, settings.subset, console.print, **further)
    most = len(data.train.labels) // 2  # of few images, half are left to choose
    settings = settings.model_copy(update={"calibration_images": min(settings.calibration_images, most)})
    held = hold_out_images(request.path, content, which, data, settings, request.held_out)
    if held.warning:
        console.print(held.warning)
    finetune = settings.finetune.model_copy(update={"validation": held.share})
    settings = settings.model_copy(update={"finetune": finetune})
    whole = settings.model_copy(update={"subset": None})  # `data` is cut already
    run = open_run(
        whole,
        request.folder,
        devices.resolve(request.device),
        _say_nothing,
        request.path,
        hints=request.hints,
        images=held.data,
    )
    known = run.data  # normalized and named as the model knows images
    held = replace(held, data=known)
    settings = run.config.model_copy(update={"subset": settings.subset})
    return settings, run, held, replace(known, name=data.name, test=data.test)


def _try(request: Request, trials: Trials, measuring: Measuring, started: float, tested: int, console: Console) -> None:
    """Takes and measures trials until there is no time for more, or nothing that was not tried.

    Args:
        tested: test images that the last measurement scores.
    """
    each_s, longest_s = time_model(measuring.baseline.restored[0], measuring.images), 0.0
    last_s = FINAL_S + 2 * request.seconds + 3 * each_s * tested
    while True:
        left_s = request.budget_s - (time.monotonic() - started) - last_s
        done = trials.list_done()
        count = min(TOGETHER, request.trials - len(done)) if request.trials else TOGETHER
        if count <= 0 or (done and left_s < 2 * longest_s):  # the best few are measured once more
            return
        began = time.monotonic()
        taken = trials.take(count, request.wishes)
        if not taken:
            console.print("everything in the space was tried")
            return
        try:
            found = measuring.measure([each.point for each in taken], done)
        except BaseException:
            trials.drop(taken)
            raise
        for each, trial in zip(taken, found, strict=True):
            each.finish(trial)
        longest_s = max(longest_s, time.monotonic() - began)
        left_s = request.budget_s - (time.monotonic() - started)
        best = find_best([*done, *found], request.wishes)
        telling.tell_progress(found, len(done), best, left_s, console)


def _say_nothing(line: str) -> None:
    """What builds and evaluations say of each candidate; a search has a line for each trial."""


def make_options(request: Request, run: Run) -> Options:
    return Options(
        verb="search",
        base=run.baseline.name,
        devices=(request.device,),
        batch_sizes=(request.batch_size,),
        threads=request.threads,
        seconds=request.seconds,
        seed=run.config.seed,
        remeasure=True,
        out=request.folder,
        kept=files.writable_folder(request.folder / "scores"),
    )


def _make_key(request: Request, run: Run, fingerprint: str, space: Space) -> str:
    """Of all that figures depend on."""
    assert run.start is not None
    machine = environment.capture(request.device, request.threads, runtimes.list_packages())
    return files.key(
        [machine[name] for name in ("versions", "cpu", "cpu_count", "threads")],
        [request.device, request.batch_size, min(SHORT_S, request.seconds)],
        [checkpoint.hash_state(run.start[2].state), run.geometry.model_dump(), fingerprint],
        [space.describe_all(), run.config.calibration_images, run.config.seed],
        [run.config.finetune.model_dump()] if request.epochs else [],
    )
