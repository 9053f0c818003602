"""int4 after training: weights of 4 bits, for a file of a sixth of the size.

Modifications to the baseline: each Linear of the blocks (qkv, proj, fc1, fc2) becomes an `Int4Linear`; everything else
stays in float, its matrices rounded to 16 bits. Each weight is rounded to the nearest of 16 levels of its group.
Nothing is trained, and no image is looked at.

Activations are float; engines round groups of them to int8 on their way into a product, which costs a fraction of what
the weights lose. With activations in float the products would take twice as long as float32's on a CPU, since every
weight is turned into float first. What this is for is size: int8 runs faster on CPUs.
"""

from functools import partial
from typing import ClassVar, Literal

from torch import Tensor

from baselines.vit import VisionTransformer
from compress.methods.base import Numerics, Ranges
from compress.quantization.int4 import Int4Linear
from compress.quantization.linear import replace_linears
from compress.quantization.sixteen_bits import round_unquantized


class Int4(Numerics):
    name: ClassVar[str] = "int4"
    ranges: ClassVar[Ranges] = {}
    dtype: ClassVar[str] = "int4"

    group: Literal[16, 32, 64, 128, 256] = 32  # inputs that share a scale, as many as engines can
    skip: tuple[str, ...] = ()  # layers that stay float: blocks.0.mlp.fc2, or fc2, with * for anything

    def prepare(self, model: VisionTransformer) -> VisionTransformer:
        replace_linears(model, self.skip, partial(Int4Linear, group=self.group))
        return model

    def calibrate(self, model: VisionTransformer, batches: list[Tensor]) -> None:
        round_unquantized(model)
