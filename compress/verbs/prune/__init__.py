"""`compress prune CHECKPOINT` and `compress halt CHECKPOINT`: tokens leave a trained model, compared with what it was.

Without training the answer takes seconds, and several amounts at once give a curve. With `epochs` the model is
fine-tuned by the workshop, which keeps its work in a run directory and goes on where it was stopped.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from baselines import device as devices
from baselines.errors import InputError
from baselines.vit import VisionTransformer
from compress import files, loading, variant
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import Checkpoint
from compress.config import BenchConfig
from compress.measure import environment
from compress.methods import Floor, Method
from compress.training.data import load_data, sample_images, settle
from compress.training.workshop import Workshop
from compress.variant import Variant
from compress.verbs.prune.comparison import Entry, compare, score, take_times
from compress.verbs.prune.request import Request, option_name, read_methods, read_settings

__all__ = ["Request", "prune"]


def prune(request: Request, console: Console) -> None:
    """Prints before and after, and writes the model after where one amount was asked for.

    Raises:
        InputError: checkpoint, data, method or options cannot be used.
    """
    model, which, content = loading.restore_vit(request.path, request.hints)
    if any(method.floor in (Floor.TOKENS, Floor.NUMERICS) for method in which.methods):
        raise InputError(
            f"{request.path} is already {which.name!r}; give the checkpoint of a float model that runs all its tokens"
        )
    settings = read_settings(request, content)
    methods = read_methods(request, settings)
    trained_only = any(_needs_training(model, each) for each in methods.values())
    if trained_only and not request.epochs:
        raise InputError(
            f"--method {request.method} chooses at random until it is trained; add --epochs, such as --epochs 3"
        )
    device = devices.resolve(request.device)
    torch.set_num_threads(request.threads)
    environment.settle_allocator()
    workshop = _workshop(request, settings, device, Variant((next(iter(methods.values())),)), console)
    if workshop is not None and workshop.start is not None:
        (model, _, content), data = workshop.start, workshop.data
    else:
        config = content.config
        data = load_data(settings.data, config.image_size, config.channels, request.path.parent, settings.subset)
        content, data = settle(request.path, model, content, data, request.hints, console.print)
    assert isinstance(model, VisionTransformer)
    pruned = [Entry(name, variant.prepare(model, [each]), Variant((each,))) for name, each in methods.items()]
    files.writable_folder(request.target.parent)

    entries = [Entry("before", model, which, request.path)]
    if not trained_only:
        entries += _untrained(pruned, which, sample_images(data, settings.calibration_images))
    if workshop:
        entries.append(_tuned(request, workshop, pruned[0]))
    elif len(pruned) == 1:
        entries[-1] = replace(entries[-1], file=request.target)
        _save(entries[-1], content, settings)
    sides = score(entries, data, device)
    timings = take_times(sides, data, request.batch_size)
    console.print(compare(sides, timings, data, request.batch_size))
    machine = f"{sides[0].session.device_name}, threads {request.threads}"
    images = f"{len(data.test.labels):,} test images of {data.name}"
    console.print(f"measured in torch on {machine}, {images}; p is McNemar's, against the model before")
    if entries[-1].file is None:
        option, value = next((option_name(name), text) for name, text in request.amounts.items() if text)
        console.print(f"{option} {value} gives a curve and writes no checkpoint; for one, give a single value")
    else:
        file = entries[-1].file
        console.print(f"wrote {file}; next: compress export {file}, or compress quantize {file}")


def _needs_training(model: VisionTransformer, method: Method) -> bool:
    """Whether the method brings weights that nothing but training sets."""
    pruned = variant.prepare(model, [method])
    brought = dict(pruned.named_parameters()).keys() - dict(model.named_parameters()).keys()
    return bool(brought) and type(method).calibrate is Method.calibrate


def _workshop(
    request: Request, settings: BenchConfig, device: torch.device, wanted: Variant, console: Console
) -> Workshop | None:
    """Where models are fine-tuned; None without `epochs`."""
    if not request.epochs:
        return None
    anew = None if request.resume else wanted
    return Workshop(settings, request.folder, device, console.print, request.path, anew=anew, hints=request.hints)


def _untrained(pruned: list[Entry], before: Variant, calibration: list[Tensor]) -> Iterator[Entry]:
    """Each model as it is without training, calibrated where the method does that."""
    for entry in pruned:
        method = entry.which.methods[0].model_copy(update={"tune": False})
        method.calibrate(entry.model.eval(), calibration)
        methods = sorted([*before.methods, method], key=lambda each: each.floor)
        yield replace(entry, which=Variant(tuple(methods)))


def _save(entry: Entry, content: Checkpoint, settings: BenchConfig) -> None:
    """Writes an untrained model; weights that were in the checkpoint stay what they were, in their precision."""
    assert entry.file is not None
    state: Any = {name: content.state.get(name, value) for name, value in entry.model.state_dict().items()}
    changes: Any = {"methods": tuple(entry.which.describe()), "state": state, "dataset": settings.data}
    checkpoint.save(entry.file, replace(content, converted=False, **changes))


def _tuned(request: Request, workshop: Workshop, pruned: Entry) -> Entry:
    built = workshop.make(pruned.which)
    files.write(request.target, built.path.read_bytes())
    model, which, _ = loading.restore_vit(request.target)
    epochs = f"{request.epochs} epoch{'s' if request.epochs > 1 else ''}"
    return Entry(f"{pruned.name}, {epochs}", model, which, request.target)
