"""A Linear layer whose weights are 4-bit integers, as ONNX Runtime's MatMulNBits takes them.

Each group of `group` inputs of an output channel has a scale. Levels go from -8 to 7, and the scale is negative where
the largest weight is positive: so the longer side of a group has the eighth level, no weight is clipped, and rounding
errors are a tenth smaller than with levels from -7 to 7.

Source of the packing: ONNX Runtime's contrib operators, MatMulNBits.

Legend: I inputs and O outputs of a layer, G groups of an output channel, S inputs in a group.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.quantization.linear import PackedLinear

ZERO = 8  # what stands for level 0 in the packed weights


@torch.library.custom_op("compress::int4_product", mutates_args=())
def int4_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """MatMulNBits of ONNX Runtime with `accuracy_level` 4: (..., I) by packed (O, G, S / 2) -> (..., O).

    Each group of inputs of a row is rounded to int8 on its way in, so that products are of integers.
    """
    return rounded_inputs(x, 2 * weight.shape[2]) @ unpack(weight, scale, x.shape[-1]).t()


@int4_product.register_fake
def _(x: Tensor, weight: Tensor, _scale: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


class Int4Linear(PackedLinear):
    """A Linear with 4-bit weights; packed ones are (O, G, S / 2).

    Args:
        group: inputs that share a scale; the last group is filled up with zeros.
    """

    def __init__(self, linear: nn.Linear, group: int):
        super().__init__(linear)
        self.group = group

    def quantize(self) -> tuple[Tensor, Tensor]:
        scale = group_scale(self.weight, self.group)
        return pack(levels(self.weight, scale, self.group)), scale

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        if self.packed:
            y = torch.ops.compress.int4_product(x.float(), self.weight, self.weight_scale)
        else:
            weight = self.weight.detach()
            scale = group_scale(weight, self.group)
            rounded = dequantize(levels(weight, scale, self.group), scale, weight.shape[1])
            y = pass_on(x.float(), rounded_inputs(x.float(), self.group)) @ pass_on(self.weight, rounded).t()
        return y if self.bias is None else y + self.bias


def in_groups(x: Tensor, size: int) -> Tensor:
    """(..., I) -> (..., G, S), zeros at the end."""
    return F.pad(x, (0, -x.shape[-1] % size)).unflatten(-1, (-1, size))


def group_scale(weight_OI: Tensor, size: int) -> Tensor:
    """Scale of each group (O, G), such that its lowest weight is no less than level -8, its highest no more than 7.

    Scales are 16-bit floats where that is as good, so that files keep them in half the space.
    """
    weight = in_groups(weight_OI, size)
    low, high = weight.amin(-1).clamp(max=0), weight.amax(-1).clamp(min=0)
    scale = torch.where(high > -low, -torch.maximum(high / 8, -low / 7), torch.maximum(-low / 8, high / 7))
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    short = scale.half().float()
    return torch.where((short - scale).abs() <= scale.abs() * 2**-10, short, scale)


def levels(weight_OI: Tensor, scale_OG: Tensor, size: int) -> Tensor:
    """Levels of the weights, float (O, G, S)."""
    return (in_groups(weight_OI, size) / scale_OG[..., None]).round().clamp(-8, 7)


def dequantize(levels_OGS: Tensor, scale_OG: Tensor, inputs: int) -> Tensor:
    """Levels -> weights (O, I)."""
    return (levels_OGS * scale_OG[..., None]).flatten(1)[:, :inputs]


def pack(levels_OGS: Tensor) -> Tensor:
    """Two levels a byte, the first in its lower half: uint8 (O, G, S / 2)."""
    stored = (levels_OGS + ZERO).to(torch.uint8)
    return stored[..., ::2] | stored[..., 1::2] << 4


def unpack(packed: Tensor, scale_OG: Tensor, inputs: int) -> Tensor:
    """Packed weights -> float ones (O, I)."""
    stored = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(2)
    return dequantize(stored.to(scale_OG.dtype) - ZERO, scale_OG, inputs)


def rounded_inputs(x: Tensor, size: int) -> Tensor:
    """`x` (..., I) in int8, each group of a row with a scale of its own; its largest magnitude is level 127."""
    groups = in_groups(x, size)
    step = groups.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    return ((groups / step).round() * step).flatten(-2)[..., : x.shape[-1]]


def pass_on(x: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, with the gradient of `x`."""
    return rounded + (x - x.detach())
