"""What rounding to 8 bits means, as operators that torch computes in float and the exporter writes as ONNX.

Rounding is half to even everywhere, as ONNX prescribes. Source: Jacob et al. 2018 (arXiv 1712.05877), eq. 1 and 3.

Legend: I inputs and O outputs of a layer, M rows of its input.
"""

import torch
from torch import Tensor


def bounds(zero_point: Tensor) -> tuple[int, int]:
    """Smallest and largest level of the type that a zero point has: uint8 or int8."""
    info = torch.iinfo(zero_point.dtype)
    return info.min, info.max


@torch.library.custom_op("compress::quantize_dequantize", mutates_args=())
def quantize_dequantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """QuantizeLinear, then DequantizeLinear, of ONNX, with one scale; the zero point's type is that of the levels."""
    low, high = bounds(zero_point)
    zero = zero_point.float()
    return (x / scale).round_().add_(zero).clamp_(low, high).sub_(zero).mul_(scale)


@torch.library.custom_op("compress::dequantize_columns", mutates_args=())
def dequantize_columns(weight: Tensor, scale: Tensor) -> Tensor:
    """DequantizeLinear of ONNX, int8 (I, O), one scale a column."""
    return weight.to(scale.dtype) * scale


@torch.library.custom_op("compress::dynamic_product", mutates_args=())
def dynamic_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """DynamicQuantizeLinear, MatMulInteger, Cast and Mul of ONNX: (..., I) by int8 (I, O) -> (..., O).

    One scale and zero point for all of `x`, found from its values: an image's result depends on its batch.
    """
    step, zero = dynamic_range(x)
    levels = (x / step).round_().add_(zero).clamp_(0, 255).sub_(zero)
    return (levels @ weight.to(x.dtype)) * (step * scale)


@torch.library.custom_op("compress::token_product", mutates_args=())
def token_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """(..., I), each row rounded to int8 by a scale of its own, by int8 (I, O) -> (..., O)."""
    step = row_scale(x)
    return ((x / step).round_() @ weight.to(x.dtype)) * step * scale


def dynamic_range(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point (both float, without dimensions) that ONNX's DynamicQuantizeLinear finds for `x`."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    step = (high - low) / 255
    step = torch.where(step == 0, torch.ones_like(step), step)
    return step, (-low / step).round().clamp(0, 255)


def row_scale(x: Tensor) -> Tensor:
    """Scale of each row (..., 1): its largest magnitude is level 127."""
    return x.abs().amax(-1, keepdim=True).clamp(min=1e-8) / 127


def channel_scale(weight_OI: Tensor) -> Tensor:
    """Scale of each output channel (O,): its largest magnitude is level 127."""
    return weight_OI.abs().amax(1).clamp(min=1e-8) / 127


def quantize_weight(weight_OI: Tensor, scale_O: Tensor) -> Tensor:
    return (weight_OI / scale_O[:, None]).round().clamp(-127, 127).to(torch.int8)


def round_weight(weight_OI: Tensor, scale_O: Tensor) -> Tensor:
    """Float weights as they are when they were quantized."""
    return quantize_weight(weight_OI, scale_O) * scale_O[:, None]


def straight_through(x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`x` rounded to multiples of `scale`, levels `low` to `high`, with a gradient.

    Values inside pass theirs on, clipped ones do not, and the scale learns from both (LSQ, Esser et al. 2020, arXiv
    1902.08153, eq. 2 and 3).
    """
    level = (x / scale).clamp(low, high)
    return (level + (level.round() - level).detach()) * scale


@quantize_dequantize.register_fake
def _(x: Tensor, _scale: Tensor, _zero_point: Tensor) -> Tensor:
    return torch.empty_like(x)


@dequantize_columns.register_fake
def _(weight: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(weight, dtype=scale.dtype)


@dynamic_product.register_fake
@token_product.register_fake
def _(x: Tensor, weight: Tensor, _scale: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[1]))
