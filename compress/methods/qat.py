"""int8 in training: the weights learn to live with their rounding.

Modifications to the baseline: those of `int8`. In training, which starts from what calibration finds, each scale has a
learned factor. What comes out is exactly the integer model that was trained: the same scales go into the graph.

- full: weights and activations are rounded in every step, all scales are learned (LSQ, Esser et al. 2020, arXiv
  1902.08153), through the logarithm, so that one learning rate suits all of them.
- short: only activations are rounded while training; weights are rounded afterwards, such that errors cancel (GPLQ,
  Liang et al. 2025, arXiv 2506.11784: an epoch is enough).

The float model teaches: its answers have `weight` of the objective, the labels the rest.
"""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from baselines.losses import soft
from baselines.train import Step, TrainConfig
from baselines.vit import VisionTransformer
from compress.methods.base import Integers, Ranges
from compress.quantization.calibration import Recipe, calibrate, calibrate_weights
from compress.quantization.linear import QuantLinear, quantized_layers, replace_linears
from compress.quantization.sixteen_bits import round_unquantized

START = Recipe("mse", 99.99, rescale=True, reconstruct=False, correct_bias=True)
# Not weighed: activations are rounded meanwhile, which has no gradient in evaluation.
ROUND = Recipe("mse", 99.99, rescale=False, reconstruct=True, correct_bias=True, weigh=False)


class Qat(Integers):
    name: ClassVar[str] = "qat"
    ranges: ClassVar[Ranges] = {"fallback_dtype": ("fp32", "bf16")}
    trains: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = True

    recipe: Literal["full", "short"] = "full"  # short: rounds activations only, weights in the end
    weight: float = Field(default=0.5, ge=0, le=1)  # share of the float model's answers in the objective
    temperature: float = Field(default=3.0, gt=0)  # of those answers
    lr: float = Field(default=0.3, gt=0)  # share of the learning rate of [finetune]: the model is trained already

    def prepare(self, model: VisionTransformer) -> VisionTransformer:
        replace_linears(model, self.skip, partial(QuantLinear, signed=self.signed))
        for layer in quantized_layers(model).values():
            layer.whole_weights = self.recipe == "short"
        return model

    def initialize(self, model: VisionTransformer, batches: list[Tensor]) -> None:
        calibrate(model, batches, START)
        for layer in quantized_layers(model).values():
            layer.learn_scales()

    def adapt_training(self, settings: TrainConfig) -> TrainConfig:
        # bf16 would round levels a second time
        return settings.model_copy(update={"lr": settings.lr * self.lr, "precision": "fp32"})

    def label_weight(self) -> float:
        return 1 - self.weight

    def loss_terms(self, step: Step) -> Mapping[str, Tensor]:
        assert step.teacher_output is not None
        return {"float": self.weight * soft(step.logits, step.teacher_output.logits.float(), self.temperature)}

    def calibrate(self, model: VisionTransformer, batches: list[Tensor]) -> None:
        for layer in quantized_layers(model).values():
            layer.fold_log_step()
        if self.recipe == "short":
            calibrate_weights(model, batches, ROUND)
        round_unquantized(model)
