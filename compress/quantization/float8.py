"""A Linear layer that multiplies 8-bit floats (e4m3: 4 bits of exponent, 3 of mantissa), and everything else in bf16.

Weights have a scale for each output channel, activations one for each token, found while it runs. Processors of NVIDIA
from Ada and Hopper on (compute capability 8.9) multiply such numbers; elsewhere they are rounded the same way and
multiplied in float32.

Source of the format: Micikevicius et al. 2022 (arXiv 2209.05433).

Legend: M rows of the input, I inputs and O outputs of a layer.
"""

import torch
from torch import Tensor, nn

from compress.quantization.linear import PackedLinear

NUMBERS = torch.float8_e4m3fn
LARGEST = 448.0  # of these numbers; what is larger would become infinite, or not a number
MULTIPLE = 16  # of which both sizes of a weight must be, for the hardware


class Float8Linear(PackedLinear):
    """A Linear in 8-bit floats, its output in bf16."""

    def quantize(self) -> tuple[Tensor, Tensor]:
        return rounded(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        rows = x.flatten(0, -2)
        if self.packed:
            product = hardware_product if x.is_cuda and in_hardware() else float_product
            (levels, step), weight, scale = rounded(rows), self.weight, self.weight_scale
        else:
            product, (levels, step), (weight, scale) = float_product, with_gradient(rows), with_gradient(self.weight)
        y = product(levels, weight, step, scale).unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias


def in_hardware() -> bool:
    """Whether a GPU is here that multiplies these numbers."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)


def fits(linear: nn.Linear) -> bool:
    """Whether the hardware takes the sizes of a layer."""
    return linear.in_features % MULTIPLE == linear.out_features % MULTIPLE == 0


def find_unfit(model: nn.Module) -> list[str]:
    """Names of the Linears of a model whose sizes the hardware does not take."""
    return [name for name, each in model.named_modules() if isinstance(each, nn.Linear) and not fits(each)]


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """(M, I) -> the same in 8-bit floats, and the scale of each row (M, 1), float32: its largest is the format's."""
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / LARGEST
    return (x / scale).clamp(-LARGEST, LARGEST).to(NUMBERS), scale


def with_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
    """The same, the levels as float32 with the gradient that there would be without rounding."""
    levels, scale = rounded(x.detach())
    ratio = x.float() / scale
    return levels.float() + (ratio - ratio.detach()), scale


def hardware_product(x: Tensor, weight: Tensor, x_scale: Tensor, weight_scale: Tensor) -> Tensor:
    """Rows (M, I) by (O, I), with scales (M, 1) and (O, 1) -> (M, O), bf16. Sums are float32."""
    return torch.ops.aten._scaled_mm(
        x.contiguous(), weight.t(), scale_a=x_scale, scale_b=weight_scale.t(), out_dtype=torch.bfloat16
    )


def float_product(x: Tensor, weight: Tensor, x_scale: Tensor, weight_scale: Tensor) -> Tensor:
    """The same on any hardware."""
    return ((x.float() @ weight.float().t()) * (x_scale * weight_scale.t())).to(torch.bfloat16)
