"""fp8 after training: products of 8-bit floats for the Linear layers, where a GPU has them (Ada, Hopper and later).

Modifications to the baseline: each Linear of the blocks (qkv, proj, fc1, fc2) whose sizes are multiples of 16 becomes a
`Float8Linear`; everything else is in bfloat16, as its outputs are. Nothing is trained or calibrated: weights have a
scale for each output channel, activations one for each token, found while it runs. Half the file of bf16, about.
"""

from typing import ClassVar

from torch import nn

from baselines.vit import VisionTransformer
from compress.methods.base import Numerics, Ranges
from compress.quantization.float8 import Float8Linear, fits
from compress.quantization.linear import replace_linears
from compress.quantization.sixteen_bits import convert_to_bf16


class Fp8(Numerics):
    name: ClassVar[str] = "fp8"
    ranges: ClassVar[Ranges] = {}
    dtype: ClassVar[str] = "fp8"

    skip: tuple[str, ...] = ()  # layers that stay in bf16: blocks.0.mlp.fc2, or fc2, with * for anything

    @property
    def fallback(self) -> str:
        return "bf16"

    def prepare(self, model: VisionTransformer) -> VisionTransformer:
        def make(linear: nn.Linear) -> nn.Module:
            return Float8Linear(linear) if fits(linear) else linear

        replace_linears(model, self.skip, make)
        return convert_to_bf16(model)
