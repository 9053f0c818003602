"""int8 after training: integer matrix products for the Linear layers.

Modifications to the baseline: each Linear of the blocks (qkv, proj, fc1, fc2) becomes a `QuantLinear`. Tokenizer, head,
LayerNorm, softmax, GELU, attention products and residual additions stay in float: quantising them too triples the
error for no speed.

Weights are symmetric int8 with one scale per output channel, activations uint8 with one scale and integer zero point
per layer, set from training images (static). In torch this is simulated in float, exactly as the exported graph of
QuantizeLinear / DequantizeLinear pairs describes it; ONNX Runtime turns those into integer kernels.
Rounding is half to even everywhere, as ONNX prescribes. Source: Jacob et al. 2018 (arXiv 1712.05877), eq. 1 and 3.

Legend: B batch, N tokens, I inputs and O outputs of a layer.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from baselines.errors import InputError
from baselines.vit import VisionTransformer
from compress.methods.base import Floor, Method

LEVELS = 255  # largest uint8


class Int8(Method):
    name: ClassVar[str] = "int8"
    floor: ClassVar[Floor] = Floor.NUMERICS
    numbers: ClassVar[str] = "int8"
    identity: ClassVar[Mapping[str, Any]] = {"percentile": 100.0}  # on numbers that are levels already

    percentile: float = Field(default=99.99, gt=50, le=100)  # of activations inside the range; the rest is clipped

    def prepare(self, model: VisionTransformer) -> VisionTransformer:
        for block in model.encoder.blocks:
            for parent in block.modules():
                for name, child in list(parent.named_children()):
                    if isinstance(child, nn.Linear):
                        setattr(parent, name, QuantLinear(child))
        return model

    @torch.no_grad()
    def calibrate(self, model: VisionTransformer, batches: list[Tensor]) -> None:
        layers = [module for module in model.modules() if isinstance(module, QuantLinear)]
        seen: dict[QuantLinear, list[tuple[float, float]]] = {layer: [] for layer in layers}

        def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(layer, QuantLinear)
            seen[layer].append(value_range(inputs[0], self.percentile))

        hooks = [layer.register_forward_pre_hook(note) for layer in layers]
        model.eval()
        for layer in layers:
            layer.simulate = False  # ranges are those of the float model
        for images in batches:
            model(images)
        for hook in hooks:
            hook.remove()
        for layer in layers:
            layer.simulate = True
            if not seen[layer]:
                raise InputError("int8 saw no calibration image; give at least one training image")
            layer.set_range(min(low for low, _ in seen[layer]), max(high for _, high in seen[layer]))

    def convert(self, model: VisionTransformer) -> VisionTransformer:
        for module in model.modules():
            if isinstance(module, QuantLinear):
                module.pack_()
        return model


class QuantLinear(nn.Module):
    """A Linear with uint8 inputs and int8 weights, float outside; `y = dequantise(x_q) @ dequantise(w_q) + bias`.

    Holds float weights (O, I) until `pack_` replaces them by int8 ones (I, O), so that it can still be trained.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.weight_scale: Tensor
        self.register_buffer("weight_scale", channel_scale(linear.weight.detach()))
        self.scale: Tensor
        self.zero_point: Tensor
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("zero_point", torch.tensor(0, dtype=torch.uint8))
        self.simulate = True

    @torch.no_grad()
    def set_range(self, low: float, high: float) -> None:
        """Takes the range of real inputs into (scale, zero point), 0 always being a level.

        Raises:
            InputError: the range is not finite.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            raise InputError("int8 calibration met activations that are not finite; check the images and the model")
        scale = max(high - low, 1e-8) / LEVELS
        self.scale.fill_(scale)
        self.zero_point.fill_(round(min(max(-low / scale, 0), LEVELS)))
        self.weight_scale.copy_(channel_scale(self.weight))

    @torch.no_grad()
    def pack_(self) -> None:
        """Float weights (O, I) -> int8 (I, O), as ONNX's MatMul takes them."""
        if self.weight.dtype == torch.int8:
            return
        packed = quantize_weight(self.weight, self.weight_scale).t().contiguous()
        del self.weight
        self.register_buffer("weight", packed)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        if not self.simulate:
            return nn.functional.linear(x, self.weight, self.bias)
        if self.weight.dtype == torch.int8:
            weight_IO = torch.ops.compress.dequantize_columns(self.weight, self.weight_scale)
        else:  # the gradient goes straight through the rounding (Bengio et al. 2013, arXiv 1308.3432)
            rounded = quantize_weight(self.weight.detach(), self.weight_scale) * self.weight_scale[:, None]
            weight_IO = (self.weight + (rounded - self.weight).detach()).t()
        x = torch.ops.compress.quantize_dequantize(x.float(), self.scale, self.zero_point)
        # A product of two matrices would be fused with the bias into a float Gemm before ONNX Runtime looks for
        # integer kernels; one of three dimensions is not.
        y = (x[None] @ weight_IO)[0] if x.ndim == 2 else x @ weight_IO
        return y + self.bias


def channel_scale(weight_OI: Tensor) -> Tensor:
    """Scale of each output channel (O,): its largest magnitude is level 127."""
    return weight_OI.abs().amax(1).clamp(min=1e-8) / 127


def quantize_weight(weight_OI: Tensor, scale_O: Tensor) -> Tensor:
    return (weight_OI / scale_O[:, None]).round().clamp(-127, 127).to(torch.int8)


def value_range(x: Tensor, percentile: float) -> tuple[float, float]:
    """Lowest and highest value of `x` once the outermost (100 - percentile) % are left out, split over both ends."""
    flat = x.detach().float().flatten()
    cut = int(len(flat) * (100 - percentile) / 200)
    if cut == 0:
        return flat.min().item(), flat.max().item()
    return flat.kthvalue(cut + 1).values.item(), flat.kthvalue(len(flat) - cut).values.item()


@torch.library.custom_op("compress::quantize_dequantize", mutates_args=())
def quantize_dequantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """QuantizeLinear then DequantizeLinear of ONNX, uint8, one scale."""
    return ((x / scale).round_().add_(zero_point).clamp_(0, LEVELS).sub_(zero_point)).mul_(scale)


@torch.library.custom_op("compress::dequantize_columns", mutates_args=())
def dequantize_columns(weight: Tensor, scale: Tensor) -> Tensor:
    """DequantizeLinear of ONNX, int8 (I, O), one scale a column."""
    return weight.to(scale.dtype) * scale


def _keep_range(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _straight_through(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    """Gradient of rounding taken as 1 inside the range and 0 where values are clipped."""
    x, scale, zero_point = ctx.saved_tensors
    level = x / scale + zero_point
    return gradient * ((level >= -0.5) & (level <= LEVELS + 0.5)), None, None


quantize_dequantize.register_autograd(_straight_through, setup_context=_keep_range)


@quantize_dequantize.register_fake
def _(x: Tensor, _scale: Tensor, _zero_point: Tensor) -> Tensor:
    return torch.empty_like(x)


@dequantize_columns.register_fake
def _(weight: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(weight, dtype=scale.dtype)
