"""The tensors of a file by name, taken one after another until none is left."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from baselines.errors import InputError
from compress.importers.base import UNKNOWN, Source

NAMES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float64: "fp64",
}  # of numbers in which weights may come


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
            raise self.fault(f"{name} is {sizes(found)}, which no such weight can be")
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
            raise self.fault(f"{name} is {sizes(value.shape)}, where its other weights ask for {sizes(shape)}")
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


def sizes(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def precision(tensors: Mapping[str, Tensor]) -> str:
    """In which numbers most of the weights are."""
    held: dict[str, int] = {}
    for value in tensors.values():
        name = NAMES.get(value.dtype, str(value.dtype).removeprefix("torch."))
        held[name] = held.get(name, 0) + value.numel()
    return max(held, key=held.__getitem__) if held else "fp32"
