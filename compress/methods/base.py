"""What a compression method is."""

from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from baselines.train import Step
from baselines.vit import VisionTransformer


class Floor(IntEnum):
    """Where in a variant a method stands; a variant lists its methods from low to high."""

    GEOMETRY = 0  # how wide the model is
    TOKENS = 1  # which tokens run
    OBJECTIVE = 2  # what training aims at
    NUMERICS = 3  # in which numbers the weights and products are


class Method(BaseModel):
    """A compression method: its hyper-parameters, and hooks of which it overrides the few it needs.

    Hooks change the model they are given and return it; `variant.py` hands them a copy.
    Hooks run in this order: `prepare`, then training with `loss_terms`, then `calibrate`; `convert` makes what ships.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]  # in variant names and config keys
    floor: ClassVar[Floor]
    exclusive: ClassVar[bool] = True  # at most one method of this floor in a variant
    trains: ClassVar[bool] = False  # whether the model is fine-tuned after `prepare`
    needs_teacher: ClassVar[bool] = False  # whether loss terms look at a teacher; it is the untouched baseline
    identity: ClassVar[Mapping[str, Any]] = {}  # settings at which it changes nothing (tests/test_methods.py)
    numbers: ClassVar[str] = "fp32"  # in which the products of what ships are meant to run: fp32, bf16, int8
    from_scratch: ClassVar[bool] = False  # whether `prepare` makes new weights, trained as the baseline was

    def prepare(self, model: VisionTransformer) -> VisionTransformer:
        """Changes the structure. Sees no data; the result is also what a saved state is loaded into."""
        return model

    def loss_terms(self, step: Step) -> Mapping[str, Tensor]:
        """Further losses of one training step, weighted, by name."""
        return {}

    def teacher_file(self) -> str | None:
        """Checkpoint of a teacher that takes the place of the untouched baseline."""
        return None

    def label_weight(self) -> float:
        """Factor on the loss against the labels, where the terms of this method take a share of it."""
        return 1.0

    def guide(self, model: VisionTransformer, teacher: VisionTransformer) -> nn.Module | None:
        """What makes by-products of the model comparable with the teacher's: by-products -> further ones, by name.

        It is learned with the model and does not ship.
        """
        return None

    def lr_scale(self) -> Mapping[str, float]:
        """Factors on the learning rate, by prefix of the parameter name."""
        return {}

    def calibrate(self, model: VisionTransformer, batches: list[Tensor]) -> None:
        """Sets what is measured rather than learned.

        Args:
            batches: normalised training images, each (B, C, height, width), on the model's device.
        """

    def convert(self, model: VisionTransformer) -> VisionTransformer:
        """The model that ships and is timed. Depends on nothing but the calibrated state."""
        return model


def tokens_per_block(model: VisionTransformer, batches: list[Tensor]) -> Iterator[Tensor]:
    """Runs the model; for each batch the tokens (B, L) of each image that ran in each block."""
    for images in batches:
        yield model.forward_aux(images)[1]["tokens"]
