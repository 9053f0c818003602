"""The channels of a layer's input brought to about one range, at no cost when the model runs.

One scale for all channels of an activation wastes its levels where few channels are much larger than the others, as
after LayerNorm in ViTs. What makes the input can take up a factor and a shift for each channel, and the weights that
come next take them off again; in float nothing changes:

    norm, then Linear        gain and bias of the norm; columns of the weight, and the bias (RepQ-ViT, Li et al. 2023,
                             arXiv 2212.08254, eq. 12 to 16)
    values, then projection  rows of the values, which attention mixes channel by channel; columns of the projection

How much goes over to the weights (`share`, SmoothQuant, Xiao et al. 2023, arXiv 2211.10438, eq. 4), and whether the
shift helps, is tried out for each layer on some of its inputs.

Legend: R rows, I inputs and O outputs of a layer, D width.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from baselines.vit import Block
from compress.quantization.linear import QuantLinear, Rounding
from compress.quantization.operators import channel_scale, round_weight, row_scale

SHARES = (0.25, 0.5, 0.75, 1.0)
LARGEST = 100.0  # factor, either way

Range = Callable[[Tensor], tuple[float, float]]


def rescale(model: nn.Module, rows: dict[str, Tensor], value_range: Range) -> None:
    """Rescales every layer of the blocks that has something before it which can take it up.

    Args:
        rows: some inputs of each layer (R, I), by name; they are rescaled too.
        value_range: range of an activation to be covered.
    """
    names = {module: name for name, module in model.named_modules() if isinstance(module, QuantLinear)}
    for weight, bias, layer in find_pairs(model):
        x = rows[names[layer]]
        if len(x):
            is_norm = weight.ndim == 1  # rows of values are scaled only, not shifted
            factor, shift = choose_scaling(layer, x, value_range, shifts=is_norm)
            weight.div_(factor if is_norm else factor[:, None])
            bias.sub_(shift).div_(factor)
            if layer.bias is not None:
                layer.bias.add_(layer.weight @ shift)
            layer.weight.mul_(factor)
            rows[names[layer]] = (x - shift) / factor


def find_pairs(model: nn.Module) -> Iterator[tuple[Tensor, Tensor, QuantLinear]]:
    """Weight and bias of what makes the input of a layer, where that can take up a factor, and the layer."""
    for block in model.modules():
        if isinstance(block, Block):
            qkv, proj, fc1 = block.attn.qkv, block.attn.proj, block.mlp.fc1
            values = slice(2 * qkv.weight.shape[0] // 3, None)
            for weight, bias, layer in (
                (block.norm1.get_parameter("weight"), block.norm1.get_parameter("bias"), qkv),
                (qkv.weight[values], qkv.bias[values], proj),
                (block.norm2.get_parameter("weight"), block.norm2.get_parameter("bias"), fc1),
            ):
                if isinstance(layer, QuantLinear):
                    yield weight, bias, layer


def choose_scaling(layer: QuantLinear, x_RI: Tensor, value_range: Range, *, shifts: bool) -> tuple[Tensor, Tensor]:
    """Factor and shift of each channel (I,) with which the layer's output is nearest to that of float."""
    low, high = x_RI.amin(0), x_RI.amax(0)
    tried = [(torch.ones_like(low), torch.zeros_like(low))]
    middle = [(low + high) / 2] if shifts else []
    for shift in [torch.zeros_like(low), *middle]:
        reach = torch.maximum((high - shift).abs(), (low - shift).abs()).clamp(min=1e-5)
        weights = layer.weight.abs().amax(0).clamp(min=1e-5)
        for share in SHARES:
            factor = reach**share / weights ** (1 - share)
            factor = (factor / factor.log().mean().exp()).clamp(1 / LARGEST, LARGEST)
            tried.append((factor, shift))
    wanted = x_RI @ layer.weight.t()
    errors = [
        output_error(layer, (x_RI - shift) / factor, layer.weight * factor, wanted - layer.weight @ shift, value_range)
        for factor, shift in tried
    ]
    return tried[min(range(len(tried)), key=errors.__getitem__)]


def output_error(layer: QuantLinear, x_RI: Tensor, weight_OI: Tensor, wanted_RO: Tensor, value_range: Range) -> float:
    """Mean squared error of the outputs when inputs and weights are rounded."""
    if layer.input is None:
        step = row_scale(x_RI)
        x_RI = (x_RI / step).round() * step
    else:
        place = Rounding(layer.input.zero_point.dtype == torch.int8).to(x_RI.device).eval()
        place.set_range(*value_range(x_RI))
        x_RI = place(x_RI)
    got_RO = x_RI @ round_weight(weight_OI, channel_scale(weight_OI)).t()
    return (got_RO - wanted_RO).square().mean().item()
