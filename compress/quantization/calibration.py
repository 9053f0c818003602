"""Everything about 8 bits that is measured on training images rather than learned: ranges, rescaling, rounding, biases.

The model is run in float, twice. The first pass keeps some input rows of each layer, on which `rescale.py` decides; the
second sees the ranges of all activations, which is what observers are for. Nothing kept grows with the images.

Legend: R rows, I inputs and O outputs of a layer.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from baselines.errors import InputError
from baselines.vit import VisionTransformer
from compress.quantization import rescale, rounding
from compress.quantization.linear import QuantLinear, Rounding, quantized_layers
from compress.quantization.observers import ObserverName, make_observer
from compress.quantization.operators import channel_scale, round_weight

ROWS = 512  # of its input that are kept of each layer


@dataclass(frozen=True)
class Recipe:
    """What calibration does."""

    observer: ObserverName
    percentile: float  # of activations inside the range, for the observer of that name
    rescale: bool  # channels of a layer's input are brought to about one range, where it is free
    reconstruct: bool  # weights are rounded up or down such that errors cancel
    correct_bias: bool  # the mean error of each output is taken off


@torch.no_grad()
def calibrate(model: VisionTransformer, batches: list[Tensor], recipe: Recipe) -> None:
    """Sets scales, zero points and weights of all `QuantLinear` and `Rounding`; leaves the model in evaluation mode.

    Args:
        batches: normalized training images, each (B, C, height, width), on the model's device.

    Raises:
        InputError: no images, images of another size or all the same, or activations that are not finite.
    """
    check(batches, (model.config.channels, *model.config.image_size))
    model.eval()
    layers = quantized_layers(model)
    with rounding_off(model):
        rows = collect_rows(model, layers, batches)
        if recipe.rescale:
            rescale.rescale(model, rows, partial(observe_rows, recipe=recipe))
        set_ranges(model, batches, recipe)
    set_weights(layers, rows, recipe)


@torch.no_grad()
def calibrate_weights(model: nn.Module, batches: list[Tensor], recipe: Recipe) -> None:
    """Sets scales and weights of a model whose activations have their scales already."""
    layers = quantized_layers(model.eval())
    set_weights(layers, collect_rows(model, layers, batches), recipe)


def set_weights(layers: dict[str, QuantLinear], rows: dict[str, Tensor], recipe: Recipe) -> None:
    """Scales of the channels of each layer, and where it is asked for, rounding and biases that suit its inputs."""
    for name, layer in layers.items():
        layer.weight_scale.copy_(channel_scale(layer.weight))
        weight = layer.weight.clone()
        x = rows[name] if layer.input is None else layer.input(rows[name])
        if recipe.reconstruct and len(x):
            layer.weight.copy_(rounding.reconstruct(weight, layer.weight_scale, x))
        if recipe.correct_bias and layer.bias is not None and len(x):
            layer.bias.add_(
                rows[name].mean(0) @ weight.t() - x.mean(0) @ round_weight(layer.weight, layer.weight_scale).t()
            )


def check(batches: list[Tensor], shape: tuple[int, int, int]) -> None:
    """Raises InputError for images that say nothing about a model that takes those of a shape (C, height, width)."""
    if not batches or not sum(len(batch) for batch in batches):
        raise InputError("int8 saw no calibration image; give at least one training image")
    for got in (tuple(batch.shape[1:]) for batch in batches):
        if got != shape:
            sizes = " and ".join("x".join(map(str, each)) for each in (got, shape))
            raise InputError(f"calibration images and the model differ in size ({sizes}); resize the images")
    if not all(batch.isfinite().all() for batch in batches):
        raise InputError("a calibration image holds values that are not finite; check the data and its normalization")
    first = batches[0][:1]
    if all(torch.equal(batch, first.expand_as(batch)) for batch in batches) and first.std() == 0:
        raise InputError("the calibration images are all one colour; give training images as --data")


@contextmanager
def rounding_off(model: nn.Module) -> Iterator[None]:
    """The model computes in float meanwhile."""
    active = [module for module in model.modules() if isinstance(module, QuantLinear | Rounding) and module.active]
    try:
        for module in active:
            module.active = False
        yield
    finally:
        for module in active:
            module.active = True


@contextmanager
def watch_inputs(modules: Mapping[str, nn.Module], note: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Calls `note` with the name and the input of each of the modules, whenever it is run."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _module, inputs: note(name, inputs[0].detach())

    hooks = [module.register_forward_pre_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def collect_rows(model: nn.Module, layers: dict[str, QuantLinear], batches: list[Tensor]) -> dict[str, Tensor]:
    """Some rows of the input of each layer (R, I), from all batches alike.

    Raises:
        InputError: an input is not finite, kept or not.
    """
    share = -(-ROWS // len(batches))
    kept: dict[str, list[Tensor]] = {name: [] for name in layers}

    def note(name: str, x: Tensor) -> None:
        x = x.flatten(0, -2).float()
        if not x.isfinite().all():
            raise InputError(f"{name}: calibration met activations that are not finite; check the images and the model")
        chosen = torch.linspace(0, max(len(x) - 1, 0), min(share, len(x)), device=x.device).long()
        kept[name].append(x[chosen])

    with watch_inputs(layers, note):
        for images in batches:
            model(images)
    return {name: torch.cat(each) if each else layers[name].weight.new_empty(0, 0) for name, each in kept.items()}


def set_ranges(model: nn.Module, batches: list[Tensor], recipe: Recipe) -> None:
    """Scale and zero point of each place that rounds to 8 bits, by an observer that sees all images."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, Rounding)}
    places = {name.removesuffix(".input"): place for name, place in found.items()}
    seen = {name: make_observer(recipe.observer, recipe.percentile) for name in places}

    def note(name: str, x: Tensor) -> None:
        with naming(name):
            seen[name].update(x)

    with watch_inputs(places, note):
        for images in batches:
            model(images)
    for name, place in places.items():
        with naming(name):
            place.set_range(*seen[name].range())


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """Errors of a user begin with the name of the layer."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{layer}: {error}") from error


def observe_rows(rows: Tensor, recipe: Recipe) -> tuple[float, float]:
    """The range that an observer finds in some rows."""
    observer = make_observer(recipe.observer, recipe.percentile)
    observer.update(rows)
    return observer.range()
