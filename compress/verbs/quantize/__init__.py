"""`compress quantize CHECKPOINT`: a float model -> the fastest integer file this machine can make of it.

The same 8 bits run at 0.3 to 5 times the speed of float32, depending on nothing but the recipe and its engine. So every
recipe takes part in an evaluation whose goal is the fastest file that keeps the accuracy (`compress/evaluate`).
"""

import contextlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from baselines import device as devices
from baselines.classifier import Classifier
from baselines.errors import InputError
from baselines.vit import VisionTransformer, ViTConfig
from compress import files, loading, variant
from compress.checkpoints.checkpoint import Checkpoint
from compress.evaluate import Goal, Images, Options, evaluate, selection, share_cost, take_test_images
from compress.exporters.operators import list_layers
from compress.measure import environment
from compress.methods import Int8, Qat
from compress.outcome import DONE, NOTHING_YET, Outcome, Stopped
from compress.quantization.linear import match_layers
from compress.runtimes import choices
from compress.tables import show_rows
from compress.training.data import adapt_to_data, describe_calibration, load_data, sample_images
from compress.verbs.quantize import accuracy_control, keeping, qat, study, unfinished
from compress.verbs.quantize.jury import Jury, choose_jury
from compress.verbs.quantize.recipes import check_architecture, list_engines, list_recipes, read_method
from compress.verbs.quantize.request import Request, read_settings
from compress.verbs.quantize.source import Source

__all__ = ["Request", "quantize"]


def quantize(request: Request, console: Console) -> Outcome:
    """Prints what was measured of every recipe, and writes the file that is kept beside the checkpoint.

    Returns:
        Its exit code is 1 where no integer file keeps the accuracy; nothing but rows is written then.

    Raises:
        InputError: the checkpoint, the data or the options cannot be used.
        Stopped: Ctrl-C or a signal ended it; says what is kept for the same command.
    """
    device = devices.resolve("cpu" if request.device == "auto" else request.device)
    request = replace(request, device=device.type)
    torch.set_num_threads(request.threads)
    environment.configure_allocator()
    outcome = None
    try:
        with contextlib.ExitStack() as stack:
            source, method, images, jury = _prepare(request, stack.enter_context(files.temporary_folder()), console)
            if not request.dry_run:
                _enter_folder(request, source, method, images, stack, console)
                method = _settle_method(request, source, method, jury, console)
            outcome = method if isinstance(method, Outcome) else _measure(request, source, method, images, console)
    except KeyboardInterrupt as stop:
        raise stop if isinstance(stop, Stopped) else Stopped(DONE if outcome else NOTHING_YET) from None
    return outcome


def _prepare(request: Request, folder: Path, console: Console) -> tuple[Source, Int8 | Qat, Images, Jury | None]:
    """Model, method and images, and those that judge `--max-drop`."""
    model, which, content = loading.restore(request.path, request.hints)
    if which.dtype != "fp32":
        raise InputError(f"{request.path} is already {which.name!r}; give the checkpoint of a float model")
    check_architecture(request, content)
    settings = read_settings(request, content)
    method = read_method(request, settings)
    list_engines(request.runtimes, request.device, foreign=not isinstance(model, VisionTransformer))  # before training
    _check_layers(model, method)
    size, channels = content.config.image_size, content.config.channels
    named, place = request.images or settings.data, request.path.parent
    further: dict[str, Any] = {"resizing": content.resizing, "skip_unreadable": settings.skip_unreadable}
    data = load_data(named, size, channels, place, settings.subset, console.print, **further)
    content, data = adapt_to_data(request.path, model, content, data, request.hints, console.print)
    calibration = sample_images(data, request.calibration_images)
    seen = describe_calibration(data, request.calibration_images)
    source = Source(model, which, content, data, calibration, seen, folder, torch.device(request.device))
    images, jury = take_test_images(data, request.test_images), None
    keeping.check_targets(request, len(images), console)
    if request.max_drop is not None:
        jury = choose_jury(request.path, content, which, data, settings.subset, images, request.calibration_images)
        images, source.tested = jury.scored, jury.tested
    return source, method, images, jury


def _enter_folder(
    request: Request, source: Source, method: Int8 | Qat, images: Images, stack: contextlib.ExitStack, console: Console
) -> None:
    """Has the files of recipes lie where an interruption does not lose them, and says what one left there."""
    if request.calibration_study or (request.sensitivity and request.max_drop is None):
        return  # which make no files
    key = unfinished.make_key(request, source, method, images)
    kept = stack.enter_context(unfinished.keep_folder(request, key))
    if kept is None:
        console.print("another process runs the same command: an interruption of this one keeps nothing")
        return
    source.folder, found = kept
    if str(found):
        console.print(f"taken from {source.folder}, which an interrupted run left: {found}; latency is measured again")


def _settle_method(
    request: Request, source: Source, method: Int8 | Qat, jury: Jury | None, console: Console
) -> Int8 | Qat | Outcome:
    """The method as it will be, trained if it is to be; the outcome where there is nothing more to do."""
    if isinstance(method, Qat):
        qat.train(request, read_settings(request, source.content), source, method, console)
        return method
    if request.calibration_study or request.sensitivity or request.max_drop is not None:
        assert isinstance(source.model, VisionTransformer)
        return _control_accuracy(request, source, method, source.model, jury, console)
    return method


def _check_layers(model: Classifier, method: Int8 | Qat) -> None:
    """Raises InputError where `skip` fits no layer or leaves none, which no recipe could do anything about."""
    if isinstance(model, VisionTransformer):
        variant.prepare(model, [method])
    else:
        match_layers([*list_layers(model)], method.skip)


def _control_accuracy(
    request: Request, source: Source, method: Int8, model: VisionTransformer, jury: Jury | None, console: Console
) -> Int8 | Outcome:
    """The method with those layers in float that `--max-drop` needs; the outcome where there is nothing more to do."""
    if request.calibration_study:
        spreads = study.study(model, method, source.data, test_images=request.test_images)
        console.print(study.table(spreads))
        return Outcome(facts={"calibration_study": [asdict(each) for each in spreads]})
    ranking = None
    if request.sensitivity:
        ranking = accuracy_control.sensitivities(model, method, source.calibration)
        console.print(accuracy_control.ranking_table(ranking))
        if request.max_drop is None:
            return Outcome(facts={"sensitivity": [asdict(each) for each in ranking]})
    assert request.max_drop is not None
    assert jury is not None
    if kept := unfinished.read_layers(source.folder, method):
        method, said = kept
        console.print(said)
        return method
    limit = request.max_drop
    goal = accuracy_control.find(model, method, source.calibration, jury.batches, limit, ranking, jury.called)
    console.print(said := accuracy_control.explain(goal))
    if not goal.reached:
        return Outcome(exit_code=1)
    unfinished.write_layers(source.folder, goal.method, said)
    return goal.method


def _measure(request: Request, source: Source, method: Int8 | Qat, images: Images, console: Console) -> Outcome:
    """Evaluates the recipes, prints what came of them, and keeps the best file."""
    foreign = not isinstance(source.model, VisionTransformer)
    engines = list_engines(request.runtimes, request.device, foreign=foreign)
    cost = share_cost(lambda: source.model, images)
    decide = not cost().fixed
    recipes = list_recipes(request.mode, method, engines, request.device, images_decide=decide, foreign=foreign)
    shape = describe_geometry(source.content)
    key = choices.make_key(shape, source.which.describe(), request.batch_size, request.threads, request.device)
    before = choices.load().get(key)
    speeds = before.tried if before else {}  # of an earlier run: they order the work, and nothing else
    recipes[1:] = sorted(recipes[1:], key=lambda each: (each.narrow, -speeds.get(each.name, 0)))
    candidates = source.make_candidates(recipes, cost)
    if request.dry_run:
        from compress.verbs.plan import plan_quantize  # which knows this module

        return plan_quantize(request, recipes, candidates, source.model, images, speeds, console)
    goal = Goal(
        wanted=lambda each: recipes[candidates.index(each)].narrow,
        max_drop=None if request.max_drop is None else request.max_drop / 100,
    )
    rows = evaluate(candidates, images, make_options(request, source, goal), console.print)
    show_rows(console, rows)
    console.print(
        f"measured on {rows[0].device_name or environment.cpu_name()}, threads {request.threads}, {len(images):,} test "
        f"images of {images.name}; calibrated on {source.calibrated_on['images']} training images "
        f"({source.calibrated_on['sha256'][:12]}); rows: {request.folder / 'rows.jsonl'}"
    )
    number = next((index for index, row in enumerate(rows) if row.chosen), None)
    if number is None:
        among = [row for row, recipe in zip(rows, recipes, strict=True) if recipe.narrow]
        console.print(selection.choose(among, rows, goal)[1])
        return Outcome(rows=rows, written=[request.folder / "rows.jsonl"], exit_code=1)
    console.print(rows[number].chosen)
    written = keeping.keep_file(request, source, recipes, rows, number, console)
    keeping.remember_choice(key, describe_model(source), recipes, rows, number, console)
    console.print(f"wrote {' and '.join(map(str, written))}; to run it in a program:\n")
    usage = recipes[number].runtime.write_usage(written[-1], source.content, request.threads, request.device)
    console.print(usage)
    return Outcome(rows=rows, written=[*written, request.folder / "rows.jsonl"])


def make_options(request: Request, source: Source, goal: Goal) -> Options:
    return Options(
        verb="quantize",
        base=source.which.name,
        devices=(request.device,),
        batch_sizes=(request.batch_size,),
        threads=request.threads,
        seconds=request.seconds,
        goal=goal,
        exhaustive=request.exhaustive,
        remeasure=True,
        out=request.folder,
        kept=source.folder,
        seed=request.seed or 0,
    )


def describe_model(source: Source) -> str:
    """For a person."""
    config, what = source.content.config, "x".join(map(str, source.content.config.image_size))
    if isinstance(config, ViTConfig):
        what = f"{config.dim} x {config.depth}, {config.tokens} tokens"
    return f"{source.which.name} {what}"


def describe_geometry(content: Checkpoint) -> dict[str, Any]:
    """What the time of a model depends on."""
    shape = content.config.model_dump(exclude={"factory", "classes"})
    if not isinstance(content.config, ViTConfig):  # its name says little
        shape["shapes"] = {name: list(value.shape) for name, value in content.state.items()}
    return shape
