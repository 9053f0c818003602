"""The channels of a layer's input brought to about one range, at no cost when the model runs.

One scale for all channels of an activation wastes its levels where few channels are much larger than the others, as
after LayerNorm in ViTs. What makes the input can take up a factor and a shift for each channel, and the weights that
come next take them off again; in float nothing changes:

    norm, then Linear        gain and bias of the norm; columns of the weight, and the bias (RepQ-ViT, Li et al. 2023,
                             arXiv 2212.08254, eq. 12 to 16)
    values, then projection  rows of the values, which attention mixes channel by channel; columns of the projection

Nothing before the second layer of an MLP can take a factor up, since GELU lies between. There the input is multiplied
by one when the model runs, which costs time, and so only where it takes half of the error of the layer away: where few
units are far larger than all others, as with massive activations of one token (Sun et al. 2024, arXiv 2402.17762).

How much goes over to the weights (`share`, SmoothQuant, Xiao et al. 2023, arXiv 2211.10438, eq. 4), and whether the
shift helps, is tried out for each layer on some of its inputs.

Legend: R rows, I inputs and O outputs of a layer, D width.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from baselines.vit import Block
from compress.quantization.importance import Rows
from compress.quantization.linear import QuantLinear, Rounding, quantized_layers
from compress.quantization.operators import channel_scale, round_weight, row_scale

SHARES = (0.25, 0.5, 0.75, 1.0)
LARGEST = 1e4  # factor, either way
WORTH = 0.5  # of the error of a layer may be left by a factor that costs time
TRIED = 512  # rows that decide

Range = Callable[[Tensor, Tensor], tuple[float, float]]


def rescale(model: nn.Module, rows: dict[str, Rows], value_range: Range) -> None:
    """Rescales every layer of the blocks that has something before it which can take it up.

    Args:
        rows: some inputs of each layer (R, I), by name; they are rescaled too.
        value_range: range of an activation to be covered, from values and the weights of their errors.
    """
    names = {module: name for name, module in model.named_modules() if isinstance(module, QuantLinear)}
    for weight, bias, layer in find_pairs(model):
        kept = rows[names[layer]]
        if len(kept.x):
            is_norm = weight.ndim == 1  # rows of values are scaled only, not shifted
            factor, shift, _ = choose_scaling(layer, kept.thin(TRIED), value_range, shifts=is_norm)
            weight.div_(factor if is_norm else factor[:, None])
            bias.sub_(shift).div_(factor)
            if layer.bias is not None:
                layer.bias.add_(layer.weight @ shift)
            layer.weight.mul_(factor)
            rows[names[layer]] = Rows((kept.x - shift) / factor, kept.weight)
    for name, layer in quantized_layers(model).items():
        if name.endswith(".mlp.fc2") and len(rows[name].x):
            scale_when_run(layer, rows[name].thin(TRIED), value_range)
            rows[name] = Rows(layer.scale_input(rows[name].x), rows[name].weight)


def scale_when_run(layer: QuantLinear, rows: Rows, value_range: Range) -> None:
    """Gives a layer a factor of its own, where that is worth its time; a power of two, which loses no bit."""
    factor, _, left = choose_scaling(layer, rows, value_range, shifts=False)
    if left <= WORTH:
        layer.factor = (-factor.log2().round()).exp2()
        layer.weight.div_(layer.factor)


def find_pairs(model: nn.Module) -> Iterator[tuple[Tensor, Tensor, QuantLinear]]:
    """Weight and bias of what makes the input of a layer, where that can take up a factor, and the layer."""
    for block in model.modules():
        if isinstance(block, Block):
            qkv, proj, fc1 = block.attn.qkv, block.attn.proj, block.mlp.fc1
            values = slice(2 * block.attn.qk_width, None)
            for weight, bias, layer in (
                (block.norm1.get_parameter("weight"), block.norm1.get_parameter("bias"), qkv),
                (qkv.weight[values], qkv.bias[values], proj),
                (block.norm2.get_parameter("weight"), block.norm2.get_parameter("bias"), fc1),
            ):
                if isinstance(layer, QuantLinear):
                    yield weight, bias, layer


def choose_scaling(layer: QuantLinear, rows: Rows, value_range: Range, *, shifts: bool) -> tuple[Tensor, Tensor, float]:
    """Factor and shift of each channel (I,) with which the layer's output is nearest to that of float.

    Also which share of the squared error without them is left.
    """
    x_RI = rows.x
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
    errors = [
        output_error(layer, Rows((x_RI - shift) / factor, rows.weight), layer.weight * factor, value_range)
        for factor, shift in tried
    ]
    best = min(range(len(tried)), key=errors.__getitem__)
    return *tried[best], errors[best] / max(errors[0], 1e-30)


def output_error(layer: QuantLinear, rows: Rows, weight_OI: Tensor, value_range: Range) -> float:
    """Weighted mean of the squared errors of the outputs when inputs and weights are rounded."""
    x_RI, weight_R1 = rows.x, rows.weight[:, None]
    if layer.input is None:
        step = row_scale(x_RI)
        rounded_RI = (x_RI / step).round() * step
    else:
        place = Rounding(layer.input.zero_point.dtype == torch.int8).to(x_RI.device).eval()
        place.set_range(*value_range(x_RI, weight_R1 * weight_OI.square().sum(0)))
        rounded_RI = place(x_RI)
    error_RO = rounded_RI @ round_weight(weight_OI, channel_scale(weight_OI)).t() - x_RI @ weight_OI.t()
    return (weight_R1 * error_RO.square()).mean().item()
