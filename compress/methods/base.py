"""What a compression method is."""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from baselines.errors import InputError
from baselines.reduction import choose_blocks, count_patches_left
from baselines.train import Step, TrainConfig
from baselines.vit import VisionTransformer, ViTConfig
from compress.quantization.linear import PackedLinear
from compress.ranges import Choices, Range

Ranges = Mapping[str, Choices] | None  # by setting


class Stage(IntEnum):
    """Where in a variant a method stands; a variant lists its methods in this order."""

    GEOMETRY = 0  # how wide the model is
    TOKENS = 1  # which tokens run
    OBJECTIVE = 2  # what training aims at
    NUMERICS = 3  # in which numbers the weights and products are


WORK = {  # of a method, by its stage: what nothing but a Vision Transformer lets be done to it
    Stage.GEOMETRY: "makes a narrower copy of",
    Stage.TOKENS: "takes tokens out of",
    Stage.OBJECTIVE: "trains",
    Stage.NUMERICS: "changes the blocks of",
}


class Method(BaseModel):
    """A compression method: its hyper-parameters, and hooks of which it overrides the few it needs.

    Hooks change the model they are given and return it; `variant.py` hands them a copy.
    Hooks run in this order: `settle` where it `searches`, `prepare`, `initialize`, then training with `loss_terms`,
    then `calibrate`; `convert` makes what ships.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]  # in variant names and config keys
    stage: ClassVar[Stage]
    anywhere: ClassVar[bool] = False  # whether it takes every `Classifier`, not only a `VisionTransformer`
    exclusive: ClassVar[bool] = True  # at most one method of this stage in a variant
    trains: ClassVar[bool] = False  # whether the model can be fine-tuned after `prepare`
    needs_teacher: ClassVar[bool] = False  # whether loss terms look at a teacher; it is the untouched baseline
    identity: ClassVar[Mapping[str, Any]] = {}  # settings at which it changes nothing (tests/test_methods.py)
    dtype: ClassVar[str] = "fp32"  # in which the products of what ships are meant to run: fp32, bf16, int8, int4, fp8
    from_scratch: ClassVar[bool] = False  # whether `prepare` makes new weights, trained as the baseline was
    in_geometry: ClassVar[bool] = False  # whether the geometry of what it made says all of it: it is applied once
    # Settings that `compress search` varies, with their values; None: it takes no part, {}: it does as it is
    ranges: ClassVar[Ranges] = None
    # Settings whose values take long to find; a search sets them where it found the best without
    refinement: ClassVar[Mapping[str, Any]] = {}

    @property
    def tuned(self) -> bool:
        """Whether the model is fine-tuned after `prepare`."""
        return self.trains

    @property
    def searches(self) -> bool:
        """Whether `settle` comes first, to find settings of this method."""
        return False

    def settle(self, model: Any, batches: list[Tensor]) -> "Method":
        """The method with settings that it found, in place of those that asked for it.

        Args:
            model: that it will be added to; stays as it is.
            batches: as those of `calibrate`.
        """
        return self

    def prepare(self, model: Any) -> Any:
        """Changes the structure of a `VisionTransformer`, or of any `Classifier` where it goes `anywhere`.

        Sees no data; the result is also what a saved state is loaded into.
        """
        return model

    def initialize(self, model: VisionTransformer, batches: list[Tensor]) -> None:
        """Sets where training starts, from training images.

        Args:
            batches: as those of `calibrate`.
        """

    def adapt_training(self, settings: TrainConfig) -> TrainConfig:
        """The settings of fine-tuning as this method needs them."""
        return settings

    def loss_terms(self, step: Step) -> Mapping[str, Tensor]:
        """Further losses of one training step, weighted, by name."""
        return {}

    def teacher_file(self) -> str | None:
        """Checkpoint of a teacher that takes the place of the untouched baseline."""
        return None

    def label_weight(self) -> float:
        """Factor on the loss against the labels, where the terms of this method take a share of it."""
        return 1.0

    def make_projector(self, model: VisionTransformer, teacher: VisionTransformer) -> nn.Module | None:
        """A map of the model's tokens (B, R, D) to the width of the teacher, to compare them in.

        It is learned with the model and does not ship; its result is `ViTOutput.projected_tokens`.
        """
        return None

    def lr_scale(self) -> Mapping[str, float]:
        """Factors on the learning rate, by prefix of the parameter name."""
        return {}

    def calibrate(self, model: VisionTransformer, batches: list[Tensor]) -> None:
        """Sets what is measured rather than learned.

        Args:
            batches: normalized training images, each (B, C, height, width), on the model's device.
        """

    @property
    def fallback(self) -> str:
        """dtype of what is not computed in `dtype`, where an engine can choose: fp32 or bf16."""
        return "fp32"

    def convert(self, model: VisionTransformer) -> VisionTransformer:
        """The model that ships and is timed. Depends on nothing but the calibrated state."""
        return model


def check_architecture(methods: Iterable[Method], factory: str) -> None:
    """Raises InputError where a method needs a Vision Transformer, for a model of the user's code.

    Args:
        factory: as in nets.py:resnet18.
    """
    for method in methods:
        if not method.anywhere:
            place, _, name = factory.rpartition(":")
            raise InputError(
                f"{method.name} {WORK[method.stage]} a Vision Transformer; {name} of {place} is another architecture: "
                "int8, bf16, bench and export work on it"
            )


class TokenMethod(Method):
    """A method that decides which tokens run."""

    stage: ClassVar[Stage] = Stage.TOKENS
    trains: ClassVar[bool] = True

    tune: bool = True  # False: the weights stay as they are

    @property
    def tuned(self) -> bool:
        return self.tune


class Pruning(TokenMethod):
    """A token method by which as many patches of every image leave, in a few places."""

    identity: ClassVar[Mapping[str, Any]] = {"keep": 1.0}
    ranges: ClassVar[Ranges] = {"keep": Range(low=0.5, high=0.95, step=0.05)}

    # Share of the patches that stay, each time anew; or one number for each place, as shares of all patches
    keep: float | tuple[float, ...] = 0.7
    at: tuple[int, ...] | None = None  # blocks, counted from 0; None: at a quarter, half, three quarters of the depth
    multiple: int = Field(default=1, gt=0, le=2**16)  # the number of tokens is rounded to multiples of this

    @model_validator(mode="after")
    def _fits(self) -> "Pruning":
        shares = self.keep if isinstance(self.keep, tuple) else (self.keep,)
        if not shares or not all(0 < share <= 1 for share in shares) or sorted(shares, reverse=True) != list(shares):
            raise ValueError(f"keep {self.keep} is no share, or rises; give numbers from 1 down to more than 0")
        if self.at is not None and (not self.at or min(self.at) < 0 or sorted(set(self.at)) != list(self.at)):
            raise ValueError(f"at {self.at} is not a list of rising block numbers; count blocks from 0")
        if isinstance(self.keep, tuple) and len(self.keep) != len(self.at or (1, 2, 3)):
            raise ValueError(f"keep has {len(self.keep)} shares for {len(self.at or (1, 2, 3))} places; give one each")
        return self

    def shares(self, config: ViTConfig) -> dict[int, float]:
        """Block -> share of all patches that should stay from there on.

        Raises:
            InputError: the model has no such block, or too few for three shares.
        """
        at = self.at or choose_blocks(config.depth)
        if at[-1] >= config.depth:
            raise InputError(f"[methods.{self.name}] at = {at[-1]}, but the model has {config.depth} blocks, from 0 on")
        if isinstance(self.keep, tuple) and len(self.keep) != len(at):
            raise InputError(
                f"[methods.{self.name}] keep has {len(self.keep)} shares, but {config.depth} blocks have {len(at)} "
                "places; set at too"
            )
        each = self.keep if isinstance(self.keep, tuple) else [self.keep ** (i + 1) for i in range(len(at))]
        return dict(zip(at, each, strict=True))

    def counts(self, config: ViTConfig) -> dict[int, int]:
        """Block -> patches that stay from there on, where some leave."""
        shares, before = self.shares(config), config.tokens - config.prefix_tokens
        found = {}
        for block, count in zip(shares, count_patches_left(config, list(shares.values()), self.multiple), strict=True):
            if count < before:
                found[block] = before = count
        return found


class Numerics(Method):
    """A method that decides in which numbers weights are kept and multiplied."""

    stage: ClassVar[Stage] = Stage.NUMERICS

    def convert(self, model: VisionTransformer) -> VisionTransformer:
        for module in model.modules():
            if isinstance(module, PackedLinear):
                module.pack_()
        return model


class Integers(Numerics):
    """A method after which the Linear layers of the blocks multiply integers."""

    dtype: ClassVar[str] = "int8"

    signed: bool = False  # activations are int8 instead of uint8
    skip: tuple[str, ...] = ()  # layers that stay float: blocks.0.mlp.fc2, or fc2, with * for anything
    # Of everything else, where the engine can choose; `rest` is its older name
    fallback_dtype: Literal["fp32", "bf16"] = Field(
        default="fp32", validation_alias=AliasChoices("fallback_dtype", "rest")
    )

    @property
    def fallback(self) -> str:
        return self.fallback_dtype
