"""Linear layers whose products torch really computes in integers: int8 by int8, summed in int32.

`torch._int_mm` multiplies; everything around it is spelled out, so that `torch.compile` fuses rounding into whatever
comes before and rescaling into whatever comes after. On a CPU it is oneDNN's, on CUDA cuBLAS's.

oneDNN's s8 by s8 product overflows 16 bits on x86 processors without VNNI, and says nothing. Whether a device computes
what it should is therefore tried, not looked up.

Legend: M rows (tokens of all images), I inputs and O outputs of a layer.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.quantization.linear import QuantLinear, quantized_layers
from compress.quantization.operators import dynamic_range, row_scale

CUDA_ROWS = 17  # the fewest that `torch._int_mm` takes there
CUDA_MULTIPLE = 8  # of inputs and outputs, there


class IntegerLinear(nn.Module):
    """What a packed `QuantLinear` simulates: the same levels, multiplied as integers; equal up to float rounding.

    uint8 levels are shifted by 128 to int8, and their zero point is taken off afterwards, in integers: it adds the same
    to a column of the result in every row. Exact up to I = 65,000.

    Args:
        layer: packed; it is not changed.
    """

    def __init__(self, layer: QuantLinear):
        super().__init__()
        self.weight: Tensor
        self.weight_sum: Tensor
        self.weight_scale: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", layer.weight.t().contiguous())  # (O, I): cuBLAS wants the second factor so
        self.register_buffer("weight_sum", self.weight.sum(1, dtype=torch.int32))
        self.register_buffer("weight_scale", layer.weight_scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())
        self.factor: Tensor | None
        self.register_buffer("factor", layer.factor)
        self.activations = layer.activations
        if layer.input is not None:
            zero = layer.input.zero_point
            self.step: Tensor
            self.register_buffer("step", layer.input.scale)
            self.zero = zero.item() - (128 if zero.dtype == torch.uint8 else 0)  # among int8 levels

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        rows = x.float().flatten(0, -2)
        rows = rows if self.factor is None else rows * self.factor
        if self.activations == "token":
            step = row_scale(rows)
            y = self._product((rows / step).round_()).float()
        else:
            if self.activations == "static":
                step, zero = self.step, self.zero
            else:
                step, zero_uint8 = dynamic_range(rows)
                zero = zero_uint8.int() - 128
            levels = (rows / step).round_().add_(zero).clamp_(-128, 127)
            y = self._product(levels).sub_(self.weight_sum * zero).float()
        y = y.mul_(step * self.weight_scale)
        return (y if self.bias is None else y.add_(self.bias)).unflatten(0, x.shape[:-1])

    def _product(self, levels: Tensor) -> Tensor:
        """Whole numbers (M, I) -> (M, O) int32."""
        levels, count = levels.to(torch.int8), len(levels)
        if levels.is_cuda and count < CUDA_ROWS:
            return torch.ops.aten._int_mm(F.pad(levels, (0, 0, 0, CUDA_ROWS - count)), self.weight.t())[:count]
        return torch.ops.aten._int_mm(levels, self.weight.t())


def use_integer_kernels(model: nn.Module, device: torch.device) -> list[str]:
    """Puts an `IntegerLinear` in the place of every packed `QuantLinear` that the device can multiply.

    Call it when the weights are loaded: the state of the model is another one afterwards.

    Returns:
        Names of the layers that are still simulated, with their inputs and outputs.
    """
    left = []
    for name, layer in quantized_layers(model).items():
        if supports_layer(layer, device):
            model.set_submodule(name, IntegerLinear(layer))
        else:
            left.append(f"{name} ({' to '.join(map(str, layer.weight.shape))})")
    return left


def supports_layer(layer: QuantLinear, device: torch.device) -> bool:
    """Whether a device can multiply the integers of a layer."""
    sizes = CUDA_MULTIPLE if device.type == "cuda" else 1
    return layer.packed and all(size % sizes == 0 for size in layer.weight.shape) and multiplies_exactly(device)


@cache
def multiplies_exactly(device: torch.device) -> bool:
    """Whether the largest levels are multiplied and summed without a mistake on a device."""
    levels = torch.full((32, 64), -128, dtype=torch.int8, device=device)
    levels[::2] = 127
    try:
        product = torch.ops.aten._int_mm(levels, levels[:16].t())
    except RuntimeError:  # none of its kernels takes integers
        return False
    exactly = levels.cpu().long() @ levels[:16].cpu().long().t()
    return torch.equal(product.cpu().long(), exactly)


def integer_macs(run: Callable[[], object]) -> int:
    """Multiply-accumulates that integer kernels do while `run` runs, as torch's profiler sees them called."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        run()
    calls = [event.input_shapes for event in profile.events() or () if event.name == "aten::_int_mm"]
    return sum(rows * inner * columns for (rows, inner), (_, columns), *_ in calls)
