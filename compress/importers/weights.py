"""The tensors of a file by name, taken one after another until none is left."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from baselines.errors import InputError
from compress.importers.base import UNKNOWN, Content

DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}  # of weights


class Weights:
    """Tensors by name, taken one after another; what is missing, or left in the end, is an error.

    Args:
        content: whose tree is the tensors by name.
        prefix: in front of every name, as wrappers leave it.
    """

    def __init__(self, content: Content, prefix: str = ""):
        self.content, self.prefix, self.notes = content, prefix, list(content.notes)
        self.sources: dict[str, str] = {}  # our names of what was taken: theirs
        self.parameters = 0  # numbers that were taken
        self._left: dict[str, Tensor] = dict(content.tree)

    @property
    def path(self) -> Path:
        return self.content.path

    @property
    def names(self) -> list[str]:
        """Of the tensors that are left, without the prefix."""
        return [name.removeprefix(self.prefix) for name in self._left if name.startswith(self.prefix)]

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self._left

    def has_layer(self, name: str) -> bool:
        """Whether there is a layer, or at least a part of it."""
        return f"{name}.weight" in self or f"{name}.bias" in self

    def shape(self, name: str, dimensions: int | None = None) -> tuple[int, ...]:
        """Raises InputError where there is no such tensor, it is empty, or it has another number of dimensions."""
        self._check(name)
        shape = tuple(self._left[self.prefix + name].shape)
        if 0 in shape or dimensions not in (None, len(shape)):
            raise self.error(f"{name} is {format_shape(shape)}, which no such weight can be")
        return shape

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor of that name, float32; it is not there any more afterwards.

        Args:
            shape: that it must have; any, where none is given.

        Raises:
            InputError: missing, of another shape, no float numbers, or not finite.
        """
        self._check(name)
        value = self._left.pop(self.prefix + name)
        self.parameters += value.numel()
        if shape and tuple(value.shape) != shape:
            raise self.misfit(name, value.shape, shape)
        if value.dtype not in DTYPES:
            raise self.error(
                f"{name} holds {str(value.dtype).removeprefix('torch.')}, where float weights are expected"
            )
        value = value.float()
        if not value.sum().isfinite() and not value.isfinite().all():  # the sum is one pass, unless it overflows
            raise self.error(f"{name} holds values that are not finite")
        return value

    def get(self, name: str, *shape: int) -> Tensor | None:
        """As `take`; None where there is none."""
        return self.take(name, *shape) if name in self else None

    def drop(self, *names: str) -> None:
        """Forgets tensors that a model does not need to answer, where they are there."""
        for name in names:
            self._left.pop(self.prefix + name, None)

    def take_tokens(self, name: str, dim: int) -> Tensor:
        """Tokens or their positions (1, n, D)."""
        return self.take(name, 1, self.shape(name, 3)[1], dim)

    def take_layer(self, ours: str, theirs: str, *shape: int, bias: bool | None = True) -> dict[str, Tensor]:
        """Weight and bias of a layer, or gain and bias of a norm, under our name.

        Args:
            shape: of the weight; where none is given, `check_shapes` looks at it in the end.
            bias: whether it has one, otherwise 0 stands in for it; None: where the file has one.
        """
        self.sources |= {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}
        weight = self.take(f"{theirs}.weight", *shape)
        if bias or (bias is None and f"{theirs}.bias" in self):
            return {f"{ours}.weight": weight, f"{ours}.bias": self.take(f"{theirs}.bias", *weight.shape[:1])}
        return {f"{ours}.weight": weight, f"{ours}.bias": torch.zeros(weight.shape[:1])}

    def take_layers(self, names: Mapping[str, str], *, bias: bool | None = True) -> dict[str, Tensor]:
        """All layers of `names`, which says theirs for ours; see `take_layer`."""
        state: dict[str, Tensor] = {}
        for ours, theirs in names.items():
            state |= self.take_layer(ours, theirs, bias=bias)
        return state

    def take_qkv(self, ours: str, theirs: Sequence[str], *, bias: bool | None = True) -> dict[str, Tensor]:
        """The layers of queries, keys and values as one layer; see `take_layer`."""
        shape = self.shape(f"{theirs[0]}.weight", 2)
        parts = [self.take_layer(ours, name, *shape, bias=bias) for name in theirs]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def count(self, pattern: str) -> int:
        """How many of `pattern`, with {} for 0, 1, 2 and so on, there are; 1 where there is none."""
        # what is lost is then said when it is taken
        return max(next(i for i in itertools.count() if pattern.format(i) not in self), 1)

    def check_none_left(self) -> None:
        """Raises InputError where tensors are left that nobody asked for: the model may be another than it seemed."""
        if left := list(self._left):
            what = f"it also holds {format_names(left)}, which such a model does not have; {UNKNOWN}"
            raise InputError(f"{self.path}: {what}")

    def error(self, what: str) -> InputError:
        """A fault of the file, in a sentence."""
        return InputError(f"{self.path}: {what}; fetch it again, or save it anew")

    def misfit(self, name: str, shape: Iterable[int], wanted: Iterable[int]) -> InputError:
        """A fault of a weight, whose shape is another than it should be."""
        return self.error(f"{name} is {format_shape(shape)}, where its other weights ask for {format_shape(wanted)}")

    def _check(self, name: str) -> None:
        if name not in self:
            raise self.error(f"it lacks {self.prefix}{name}")


def format_shape(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def format_names(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def find_dtype(tensors: Mapping[str, Tensor]) -> str:
    """The dtype that most of the weights have."""
    held: dict[str, int] = {}
    for value in tensors.values():
        name = DTYPES.get(value.dtype, str(value.dtype).removeprefix("torch."))
        held[name] = held.get(name, 0) + value.numel()
    return max(held, key=held.__getitem__) if held else "fp32"
