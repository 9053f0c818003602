"""Everything about 8 bits that is measured on training images rather than learned: ranges, rescaling, rounding, biases.

The model is run in float, twice. The first pass keeps some input rows of each layer, on which `rescale.py` decides; the
second sees the ranges of all activations, which is what observers are for. Nothing kept grows with the images. What is
an error, and how large, is judged by what it does to the logits (`importance.py`).

Legend: R rows, I inputs and O outputs of a layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from baselines.errors import InputError
from baselines.vit import VisionTransformer
from compress.quantization import importance, rescale, rounding
from compress.quantization.importance import Rows, even_out, sample_rows, watch_values
from compress.quantization.linear import QuantLinear, Rounding, quantized_layers
from compress.quantization.observers import Observer, ObserverName, make_observer
from compress.quantization.operators import channel_scale, round_weight

ROWS = 1024  # of its input that are kept of each layer
WEIGHED = 2**14  # tokens of which gradients are taken
LEAST = 64  # images of which they are taken however many tokens those have
# Factor on weighed squared errors of clipping: those have one sign, and add up over tokens.
CLIPPING = 8.0


@dataclass(frozen=True)
class Recipe:
    """What calibration does."""

    observer: ObserverName
    percentile: float  # of activations inside the range, for the observer of that name
    rescale: bool  # channels of a layer's input are brought to about one range, where it is free
    reconstruct: bool  # weights are rounded up or down such that errors cancel
    correct_bias: bool  # the mean error of each output is taken off
    weigh: bool = True  # errors count for what they do to the logits


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
        rows = collect_rows(model, layers, batches, recipe.weigh)
        if recipe.rescale:
            rescale.rescale(model, rows, partial(observe_rows, recipe=recipe))
        set_ranges(model, batches, recipe)
    set_weights(layers, rows, recipe)


@torch.no_grad()
def calibrate_weights(model: VisionTransformer, batches: list[Tensor], recipe: Recipe) -> None:
    """Sets scales and weights of a model whose activations have their scales already."""
    layers = quantized_layers(model.eval())
    set_weights(layers, collect_rows(model, layers, batches, recipe.weigh), recipe)


def set_weights(layers: dict[str, QuantLinear], rows: dict[str, Rows], recipe: Recipe) -> None:
    """Scales of the channels of each layer, and where it is asked for, rounding and biases that suit its inputs."""
    for name, layer in layers.items():
        layer.weight_scale.copy_(channel_scale(layer.weight))
        weight, kept, weight_R1 = layer.weight.clone(), rows[name].x, rows[name].weight[:, None]
        x = kept if layer.input is None else layer.input(kept)
        if recipe.reconstruct and len(x):
            layer.weight.copy_(rounding.reconstruct(weight, layer.weight_scale, x * weight_R1.sqrt()))
        if recipe.correct_bias and layer.bias is not None and len(x):
            mean, rounded = ((weight_R1 * each).sum(0) / weight_R1.sum() for each in (kept, x))
            layer.bias.add_(mean @ weight.t() - rounded @ round_weight(layer.weight, layer.weight_scale).t())


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


def collect_rows(
    model: VisionTransformer, layers: dict[str, QuantLinear], batches: list[Tensor], weigh: bool = True
) -> dict[str, Rows]:
    """Some rows of the input of each layer, from all images that are run.

    Args:
        weigh: rows count for what errors in them do to the logits.

    Raises:
        InputError: an input is not finite, kept or not.
    """
    images, at_once = choose_weighed(model)
    used = [torch.cat(batches)[:images]] if weigh else batches
    kept: dict[str, list[Rows]] = {name: [] for name in layers}
    share = -(-ROWS // (-(-len(used[0]) // at_once) if weigh else len(used)))

    def note(name: str, x: Tensor, _: Tensor | None, weight: Tensor | None) -> None:
        x = layers[name].scale_input(x.flatten(0, -2).float())
        if not x.isfinite().all():
            raise InputError(f"{name}: calibration met activations that are not finite; check the images and the model")
        weight_R = x.new_ones(len(x)) if weight is None else even_out(weight.flatten(0, -2).sum(-1))
        kept[name].append(sample_rows(x, weight_R, share))

    watch_values(model, layers, used, note, weighed=images if weigh else 0, at_once=at_once)
    return {name: Rows.join(each) if each else Rows.none(layers[name].weight) for name, each in kept.items()}


def choose_weighed(model: VisionTransformer) -> tuple[int, int]:
    """Of how many images gradients are taken, and of how many at a time."""
    tokens = model.config.tokens
    return max(WEIGHED // tokens, LEAST), max(importance.TOKENS // tokens, 1)


def set_ranges(model: VisionTransformer, batches: list[Tensor], recipe: Recipe) -> None:
    """Scale and zero point of each place that rounds to 8 bits, by an observer that sees all images."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, Rounding)}
    places = {name.removesuffix(".input"): place for name, place in found.items()}
    seen = {name: observer_of(recipe) for name in places}
    weigh = recipe.weigh and recipe.observer == "mse"

    def note(name: str, x: Tensor, weight: Tensor | None, _: Tensor | None) -> None:
        with naming(name):
            if weigh:  # images beyond those that are weighed only say how far values reach
                weight = torch.zeros_like(x) if weight is None else even_out(weight)
            seen[name].update(x, weight)

    images, at_once = choose_weighed(model)
    watch_values(model, places, batches, note, weighed=images if weigh else 0, at_once=at_once)
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


def observe_rows(rows: Tensor, weight: Tensor, recipe: Recipe) -> tuple[float, float]:
    """The range that an observer finds in some rows.

    Args:
        weight: of the error of each value, of the same shape.
    """
    observer = observer_of(recipe)
    observer.update(rows, weight)
    return observer.range()


def observer_of(recipe: Recipe) -> Observer:
    return make_observer(recipe.observer, recipe.percentile, CLIPPING if recipe.weigh else 1.0)
