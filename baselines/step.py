"""What the training loop shares with those who add to it: loss terms, and a place for its state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from baselines.output import ViTOutput
from baselines.vit import VisionTransformer


@dataclass(frozen=True)
class Step:
    """What a loss term may look at."""

    model: VisionTransformer
    images: Tensor  # (B, C, height, width), normalized
    labels: Tensor  # (B,)
    logits: Tensor  # (B, classes), float32
    output: ViTOutput  # of the model, as it came
    teacher: VisionTransformer | None = None
    teacher_output: ViTOutput | None = None  # where there is a teacher
    progress: float = 0.0  # share of the training that is done, 0 to 1

    @property
    def distilled_logits(self) -> Tensor:
        """What answers the teacher (B, classes), float32: the head of the distillation token, where there is one."""
        other = self.output.distill_logits
        return self.logits if other is None else other.float()


LossTerm = Callable[[Step], Mapping[str, Tensor]]
Probe = Callable[[VisionTransformer], Mapping[str, float]]  # figures of a model, by name; it may change the model


class Snapshot(Protocol):
    """Where an interrupted training is kept."""

    def load(self) -> dict[str, Any] | None: ...
    def save(self, state: dict[str, Any]) -> None: ...
