"""The plain alternative to int8: weights and products in bfloat16, where the processor multiplies it in hardware.

Modifications to the baseline: every parameter and buffer becomes bfloat16; images are rounded on their way in, logits
become float32 on their way out. Nothing is trained or calibrated. Half the file.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from baselines.vit import VisionTransformer
from compress.methods.base import Floor, Method


class Bf16(Method):
    name: ClassVar[str] = "bf16"
    floor: ClassVar[Floor] = Floor.NUMERICS
    numbers: ClassVar[str] = "bf16"

    def numbers_around(self) -> str:
        return "bf16"

    def prepare(self, model: VisionTransformer) -> VisionTransformer:
        model.to(torch.bfloat16)
        model.patch_embed.register_forward_pre_hook(_round)
        model.head.register_forward_hook(_widen)
        return model


def _round(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
    return (inputs[0].to(torch.bfloat16),)


def _widen(_module: nn.Module, _inputs: tuple[Any, ...], logits: Tensor) -> Tensor:
    return logits.float()
