"""`compress prune CHECKPOINT` and `compress halt CHECKPOINT`: tokens or structures leave a trained model.

Without training the answer takes seconds, and several amounts at once give a curve. With `epochs` the model is
fine-tuned in a run directory, which keeps the work and resumes it where it was stopped.
"""

import copy
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from baselines import device as devices
from baselines.errors import InputError
from baselines.vit import VisionTransformer
from compress import files, loading, runtimes, sidecar, variant
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import Checkpoint
from compress.config import BenchConfig
from compress.evaluate import Candidate, Images, Options, describe_variant, evaluate, share_cost, take_test_images
from compress.evaluate.options import describe_command
from compress.measure import environment
from compress.methods import Method, Stage
from compress.outcome import Outcome
from compress.runtimes import BuildInputs
from compress.sidecar import Origin
from compress.tables import show_rows
from compress.training.build import make_variant
from compress.training.data import adapt_to_data, load_data, sample_images, sample_parity_images
from compress.training.run import Run, open_run
from compress.variant import Variant
from compress.verbs.prune.request import Request, name_option, read_methods, read_settings

__all__ = ["Request", "prune"]


@dataclass(frozen=True)
class Model:
    """A model that takes part in the comparison."""

    recipe: str | None  # the amount in words; None: the model as it was
    model: VisionTransformer
    which: Variant
    file: Path | None = None  # that holds it


def prune(request: Request, console: Console) -> Outcome:
    """Prints before and after, and writes the model after where one amount was asked for.

    Raises:
        InputError: checkpoint, data, method or options cannot be used.
    """
    model, which, content = loading.restore_vit(request.path, request.hints)
    if any(method.stage in (Stage.TOKENS, Stage.NUMERICS) for method in which.methods):
        raise InputError(
            f"{request.path} is already {which.name!r}; give the checkpoint of a float model that runs all its tokens"
        )
    settings = read_settings(request, content)
    methods = read_methods(request, settings)
    _check_geometry(request, which, next(iter(methods.values())))
    untrainable = any(variant.needs_training(model, each) for each in methods.values())
    if untrainable and not request.epochs:
        raise InputError(
            f"--method {request.method} chooses at random until it is trained; add --epochs, such as --epochs 3"
        )
    device = devices.resolve(request.device)
    torch.set_num_threads(request.threads)
    environment.configure_allocator()
    run = _open_run(request, settings, device, next(iter(methods.values())), console)
    if run is not None and run.start is not None:
        (model, _, content), data = run.start, run.data
    else:
        config = content.config
        named, folder = request.images or settings.data, request.path.parent
        size, channels = config.image_size, config.channels
        further: dict[str, Any] = {"resizing": content.resizing, "skip_unreadable": settings.skip_unreadable}
        data = load_data(named, size, channels, folder, settings.subset, console.print, **further)
        content, data = adapt_to_data(request.path, model, content, data, request.hints, console.print)
    assert isinstance(model, VisionTransformer)
    files.writable_folder(request.target.parent)
    origin = Origin.of(request, request.path, describe_command(sys.argv))
    writes = run is not None or len(methods) == 1
    if writes and not sidecar.check_target(request.target, origin, len(data.test.labels)):
        console.print(f"{request.target}: nothing says what made it; it is replaced by the same alone, or with --force")

    calibration = [batch.to(device) for batch in sample_images(data, settings.calibration_images)]
    there = model if device.type == "cpu" else copy.deepcopy(model).to(device)
    methods = {name: _settle(each, there, calibration, console) for name, each in methods.items()}
    pruned = [Model(name, variant.prepare(model, [each]), Variant((each,))) for name, each in methods.items()]
    models = [Model(None, model, which, request.path)]
    if not untrainable:
        models += _calibrate(pruned, which, calibration, content.state)
    if run is not None:
        models.append(_tune(request, run, pruned[0]))
    with files.temporary_folder() as folder:
        images = take_test_images(data)
        candidates = [_make_candidate(each, content, images, folder) for each in models]
        rows = evaluate(candidates, images, _make_options(request, which, device), console.print)
        show_rows(console, rows)
        if writes:
            made = models[-1].file or _save(models[-1], content, settings, folder / request.target.name)
            sidecar.write_files({request.target: made.read_bytes()}, request.target, origin, rows[-1])
    console.print(f"rows: {request.folder / 'rows.jsonl'}; the page: compress report {request.folder}")
    written = [request.target] if writes else []
    _say_what_is_next(request, written, console)
    return Outcome(rows=rows, written=[*written, request.folder / "rows.jsonl"])


def _make_options(request: Request, before: Variant, device: torch.device) -> Options:
    return Options(
        verb=request.verb,
        base=before.name,
        devices=(device.type,),
        batch_sizes=(request.batch_size,),
        threads=request.threads,
        seconds=request.seconds,
        seed=request.seed or 0,
        out=request.folder,
    )


def _make_candidate(each: Model, content: Checkpoint, images: Images, folder: Path) -> Candidate:
    """The model in torch, as the artifact that its process loads."""
    torch_runtime = runtimes.get("torch")
    name = "".join(letter if letter.isalnum() else "_" for letter in f"{each.which.name} {each.recipe or ''}")
    path = folder / f"{name.strip('_')}{torch_runtime.suffix}"
    assert images.data is not None
    data = images.data
    whole = loading.pack(each.model, each.which.methods, data, each.model.config, calibration=content.calibration)

    def build() -> Path:
        torch_runtime.build(BuildInputs(each.model, each.which, whole, sample_parity_images(data)), path)
        return path

    facts: dict[str, Any] = {**describe_variant(each.which), "dense": each.recipe is None}
    return Candidate(
        **facts,
        runtime=torch_runtime,
        recipe=each.recipe,
        build=build,
        key=files.key(checkpoint.hash_state(whole.state), each.which.describe(), each.recipe),
        cost=share_cost(lambda: each.model, images),
        model=lambda: each.model,
    )


def _say_what_is_next(request: Request, written: list[Path], console: Console) -> None:
    if not written:
        option, value = next((name_option(name), text) for name, text in request.amounts.items() if text)
        console.print(f"{option} {value} gives a curve and writes no checkpoint; for one, give a single value")
    else:
        console.print(f"wrote {written[0]}; next: compress export {written[0]}, or compress quantize {written[0]}")


def _open_run(
    request: Request, settings: BenchConfig, device: torch.device, method: Method, console: Console
) -> Run | None:
    """Where models are fine-tuned; None without `epochs`."""
    if not request.epochs:
        return None
    restart = None if request.resume else Variant((method,))
    start: dict[str, Any] = {"hints": request.hints, "images": request.images, "restart": restart}
    return open_run(settings, request.folder, device, console.print, request.path, **start)


def _settle(method: Method, model: VisionTransformer, calibration: list[torch.Tensor], console: Console) -> Method:
    """The method with the settings that it finds, which are shown."""
    if not method.searches:
        return method
    console.print(f"looking for the settings of {method.name} on {sum(map(len, calibration))} training images")
    found = method.settle(model, calibration)
    new = [f"{name} = {value}" for name, value in found if value and value != getattr(method, name)]
    console.print(f"found: {', '.join(new) or 'nothing leaves'}")
    return found


def _check_geometry(request: Request, before: Variant, method: Method) -> None:
    """Raises InputError where a checkpoint was made smaller already, and would be once more."""
    done = [each.name for each in before.methods if each.stage == Stage.GEOMETRY == method.stage]
    if done:
        raise InputError(
            f"{request.path} is already {before.name!r}; give the checkpoint that {done[0]} began with to {method.name}"
        )


def _calibrate(
    pruned: list[Model], before: Variant, calibration: list[torch.Tensor], given: Mapping[str, torch.Tensor]
) -> Iterator[Model]:
    """Each model as it is without training, calibrated where the method does that; they end on the CPU.

    Args:
        calibration: on the device that does it.
        given: weights of the checkpoint; new ones are rounded to the same numbers, in which they will be written.
    """
    for each in pruned:
        method = each.which.methods[0].model_copy(update={"tune": False})
        method.initialize(each.model.eval().to(calibration[0].device), calibration)
        for name, value in each.model.state_dict().items() if method.in_geometry else ():
            value.copy_(value.to(given[name].dtype))
        method.calibrate(each.model, calibration)
        each.model.cpu()
        methods = sorted([*before.methods, method], key=lambda one: one.stage)
        yield replace(each, which=Variant(tuple(methods)))


def _save(each: Model, content: Checkpoint, settings: BenchConfig, path: Path) -> Path:
    """Writes an untrained model; weights that were in the checkpoint stay what they were, in their precision."""
    state: Any = {name: _restore(value, content.state.get(name)) for name, value in each.model.state_dict().items()}
    changes: Any = {"methods": tuple(each.which.describe()), "state": state, "dataset": settings.data}
    checkpoint.save(path, replace(content, config=each.model.config, converted=False, **changes))
    return path


def _restore(value: torch.Tensor, given: torch.Tensor | None) -> torch.Tensor:
    """A weight as the checkpoint had it, where it is the same; otherwise in the same numbers."""
    if given is None:
        return value
    same = given.shape == value.shape and torch.equal(given.to(value.dtype), value)
    return given if same else value.to(given.dtype)


def _tune(request: Request, run: Run, pruned: Model) -> Model:
    built = make_variant(run, pruned.which)
    model, which, _ = loading.restore_vit(built.path)
    epochs = f"{request.epochs} epoch{'s' if request.epochs > 1 else ''}"
    return Model(f"{pruned.recipe}, {epochs}", model, which, built.path)
