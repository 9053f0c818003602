"""What the training loop shares with those who add to it: loss terms, and a place for its state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from baselines.vit import VisionTransformer


@dataclass(frozen=True)
class Step:
    """What a loss term may look at."""

    model: VisionTransformer
    images: Tensor  # (B, C, height, width), normalised
    labels: Tensor  # (B,)
    logits: Tensor  # (B, classes)
    aux: dict[str, Tensor]  # by-products of the model's forward pass
    teacher_logits: Tensor | None  # (B, classes), where a teacher was given
    teacher_aux: dict[str, Tensor]  # by-products of the teacher's
    progress: float  # share of the training that is done, 0 to 1
    teacher: VisionTransformer | None = None


LossTerm = Callable[[Step], Mapping[str, Tensor]]
Probe = Callable[[VisionTransformer], Mapping[str, float]]  # figures of a model, by name; it may change the model


class Snapshot(Protocol):
    """Where an interrupted training is kept."""

    def load(self) -> dict[str, Any] | None: ...
    def save(self, state: dict[str, Any]) -> None: ...
