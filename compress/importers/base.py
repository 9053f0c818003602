"""What the readers of foreign checkpoints share: a model of somebody else's, its weights by name, what is to be asked.

Legend: D width.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from baselines.errors import InputError
from baselines.vit import VisionTransformer, ViTConfig
from compress import files

NAMES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float64: "fp64",
}  # of numbers in which weights may come
# Heads of published ViTs, Ti to G, by width and depth (arXiv 2010.11929, 2012.12877, 2106.04560)
PUBLISHED_HEADS = {
    (192, 12): 3,
    (384, 12): 6,
    (768, 12): 12,
    (1024, 24): 16,
    (1280, 32): 16,
    (1408, 40): 16,
    (1664, 48): 16,
}
UNKNOWN = "an architecture that compress does not know comes in as code: --model path/to/file.py:factory"


@dataclass(frozen=True)
class Hints:
    """What a person says of a file that does not say it itself."""

    heads: int | None = None
    image_size: tuple[int, int] | None = None  # height, width
    normalise: str | None = None  # a name, or means and deviations
    ema: bool = True  # whether averaged weights go before the last ones, where a file holds both
    model: str | None = None  # code that makes the model: path/to/file.py:factory or package.module:factory


@dataclass(frozen=True)
class Source:
    """What was read from a file or folder, before anybody knows whose it is."""

    path: Path
    tensors: dict[str, Tensor]
    settings: dict[str, Any] = field(default_factory=dict)  # config.json beside the weights
    preprocessing: dict[str, Any] = field(default_factory=dict)  # preprocessor_config.json
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Foreign:
    """A model of somebody else's, as one of ours."""

    config: ViTConfig
    state: dict[str, Tensor]  # by our names, float32
    classes: tuple[str, ...] = ()  # their names; empty where the file does not say
    mean: tuple[float, ...] = ()  # per channel, of pixels in [0, 1]; empty where the file does not say
    std: tuple[float, ...] = ()
    head: bool = True  # whether it knows classes
    notes: tuple[str, ...] = ()  # what was taken for granted
    family: str = ""  # whose layout it is
    numbers: str = "fp32"  # in which its weights came


@dataclass(frozen=True)
class Outgoing:
    """A model of ours as another library takes it."""

    tensors: dict[str, Tensor]  # by its names
    usage: str  # Python that makes the model which takes them, for the person at the terminal
    settings: dict[str, Any] = field(default_factory=dict)  # its config.json; where there is one, a folder is written
    preprocessing: dict[str, Any] = field(default_factory=dict)  # its preprocessor_config.json


@dataclass(frozen=True)
class Family:
    """One layout of checkpoints.

    `read` turns what was found into a model of ours; `marker` ends a name that no other layout has. Where there are
    several, the first that is found counts. `write` is the way back; it raises InputError where the model has something
    that the library does not.
    """

    name: str
    marker: str | tuple[str, ...]
    read: Callable[["Weights", Hints], Foreign]
    write: Callable[[Foreign], Outgoing] | None = None


class Weights:
    """Tensors by name, taken one after another; what is missing, or left in the end, is an error.

    Args:
        prefix: in front of every name, as wrappers leave it.
    """

    def __init__(self, source: Source, prefix: str = ""):
        self.source, self.prefix, self.notes = source, prefix, list(source.notes)
        self._left = dict(source.tensors)

    @property
    def path(self) -> Path:
        return self.source.path

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self._left

    def shape(self, name: str, dimensions: int | None = None) -> tuple[int, ...]:
        """Raises InputError where there is no such tensor, it is empty, or it has another number of dimensions."""
        self._check(name)
        found = tuple(self._left[self.prefix + name].shape)
        if 0 in found or dimensions not in (None, len(found)):
            raise self.fault(f"{name} is {_sizes(found)}, which no such weight can be")
        return found

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor of that name, float32; it is not there any more afterwards.

        Args:
            shape: that it must have; any, where none is given.

        Raises:
            InputError: missing, of another shape, no float numbers, or not finite.
        """
        self._check(name)
        value = self._left.pop(self.prefix + name)
        if shape and tuple(value.shape) != shape:
            raise self.fault(f"{name} is {_sizes(value.shape)}, where its other weights ask for {_sizes(shape)}")
        if value.dtype not in NAMES:
            raise self.fault(
                f"{name} holds {str(value.dtype).removeprefix('torch.')}, where float weights are expected"
            )
        value = value.float()
        if not finite(value):
            raise self.fault(f"{name} holds values that are not finite")
        return value

    def get(self, name: str, *shape: int) -> Tensor | None:
        """As `take`; None where there is none."""
        return self.take(name, *shape) if name in self else None

    def drop(self, *names: str) -> None:
        """Forgets tensors that a model does not need to answer, where they are there."""
        for name in names:
            self._left.pop(self.prefix + name, None)

    def linear(self, ours: str, theirs: str, *shape: int) -> dict[str, Tensor]:
        """Weight and bias of a layer under our name; a bias that the file does not have is 0.

        Args:
            shape: of the weight.
        """
        weight = self.take(f"{theirs}.weight", *shape)
        bias = self.get(f"{theirs}.bias", *weight.shape[:1])
        return {f"{ours}.weight": weight, f"{ours}.bias": torch.zeros(weight.shape[:1]) if bias is None else bias}

    def norm(self, ours: str, theirs: str, width: int) -> dict[str, Tensor]:
        """Gain and bias of a norm under our name."""
        return self.linear(ours, theirs, width)

    def count(self, pattern: str) -> int:
        """How many of `pattern`, with {} for 0, 1, 2 and so on, there are."""
        number = 0
        while pattern.format(number) in self:
            number += 1
        return number

    def finish(self) -> None:
        """Raises InputError where tensors are left that nobody asked for: the model may be another than it seemed."""
        left = list(self._left)
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise self.fault(
                f"it also holds {left[0]}{more}, which such a model does not have; {UNKNOWN}", remedy=False
            )

    def fault(self, what: str, *, remedy: bool = True) -> InputError:
        """What is wrong with the file, in a sentence."""
        return InputError(f"{self.path}: {what}{'; fetch it again, or save it anew' if remedy else ''}")

    def _check(self, name: str) -> None:
        if name not in self:
            raise self.fault(f"it lacks {self.prefix}{name}")


def finite(value: Tensor) -> bool:
    """Whether all numbers are; their sum says so in one pass over them, unless it overflows."""
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())


def _sizes(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def precision(tensors: Mapping[str, Tensor]) -> str:
    """In which numbers most of the weights are."""
    held: dict[str, int] = {}
    for value in tensors.values():
        name = NAMES.get(value.dtype, str(value.dtype).removeprefix("torch."))
        held[name] = held.get(name, 0) + value.numel()
    return max(held, key=held.__getitem__) if held else "fp32"


def heads(weights: Weights, hints: Hints, dim: int, depth: int) -> int:
    """Number of heads, which shapes do not tell where queries of all heads lie in one matrix.

    Raises:
        InputError: it is neither given nor that of a published geometry.
    """
    found = hints.heads or PUBLISHED_HEADS.get((dim, depth))
    if found is None:
        raise InputError(
            f"{weights.path}: how many heads its blocks have cannot be read from such a file (width {dim}, {depth} "
            "blocks); say it with --heads"
        )
    if hints.heads is None:
        weights.notes.append(f"{found} heads, as in every published ViT of width {dim} and {depth} blocks (--heads)")
    if dim % found:
        raise InputError(f"--heads {found} does not divide the width {dim} of {weights.path}; give another number")
    return found


def image_size(weights: Weights, hints: Hints, patches: int, patch_size: int) -> tuple[int, int]:
    """Height and width in pixels of images that make so many patches: square, unless it is said.

    Raises:
        InputError: they make no square, or what was said makes another number of patches.
    """
    if hints.image_size is not None:
        height, width = hints.image_size
        if height % patch_size or width % patch_size or height * width != patches * patch_size**2:
            raise InputError(
                f"--image-size {height}x{width} does not make the {patches} patches of {patch_size} x {patch_size} "
                f"pixels that {weights.path} has positions for; give another size"
            )
        return hints.image_size
    if not square(patches):
        raise InputError(
            f"{weights.path} has positions for {patches} patches, which make no square; "
            "give the size of its images with --image-size HEIGHTxWIDTH"
        )
    side = math.isqrt(patches) * patch_size
    return side, side


def square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def configure(weights: Weights, **settings: Any) -> ViTConfig:
    """The geometry; raises InputError where it cannot be."""
    if settings.get("classes") == 1:
        raise InputError(
            f"{weights.path} answers with a single number, where compress tells two or more classes apart; train it "
            "anew with a head of two classes"
        )
    try:
        return ViTConfig(**settings)
    except ValidationError as error:
        raise files.explain(error, str(weights.path)) from error


def check(foreign: Foreign, path: Path) -> None:
    """Raises InputError where weights do not fit the geometry that was read from them."""
    with torch.device("meta"):
        wanted = VisionTransformer(foreign.config).state_dict()
    for name in wanted.keys() | foreign.state.keys():
        got, asked = (tuple(each[name].shape) if name in each else None for each in (foreign.state, wanted))
        if got != asked:
            told = " and not ".join("missing" if each is None else _sizes(each) for each in (got, asked))
            raise InputError(f"{path}: what should be {name} is {told}; fetch it again, or save it anew")
