"""A Linear layer that multiplies integers, and how the Linears of a model become such layers.

Weights are symmetric int8 with one scale per output channel. Activations have one scale and integer zero point per
layer, set from training images (static), or are given scales when they come, one for each token or one for all
(dynamic). Torch simulates this in float, exactly as the exported graph describes it.

Legend: B batch, N tokens, I inputs and O outputs of a layer.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.errors import InputError
from baselines.vit import Attention, VisionTransformer
from compress.quantization.operators import bounds, channel_scale, quantize_weight, row_scale, straight_through

Activations = Literal["static", "token", "tensor"]


class Rounding(nn.Module):
    """Values of one place in a model, in 8 bits with one scale and zero point.

    Args:
        signed: int8 instead of uint8.
    """

    def __init__(self, signed: bool = False):
        super().__init__()
        self.scale: Tensor
        self.zero_point: Tensor
        self.log_step: nn.Parameter | None
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("zero_point", torch.tensor(0, dtype=torch.int8 if signed else torch.uint8))
        self.register_parameter("log_step", None)  # what training adds to the logarithm of the scale
        self.active = True

    @torch.no_grad()
    def set_range(self, low: float, high: float) -> None:
        """Takes the range of real values into (scale, zero point), 0 always being a level.

        Raises:
            InputError: the range is not finite.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            raise InputError("int8 calibration met activations that are not finite; check the images and the model")
        least, most = bounds(self.zero_point)
        scale = max(high - low, 1e-8) / (most - least)
        self.scale.fill_(scale)
        self.zero_point.fill_(round(min(max(least - low / scale, least), most)))

    @torch.no_grad()
    def fold_log_step(self) -> None:
        """What was learned becomes the scale."""
        if self.log_step is not None:
            self.scale.mul_(self.log_step.exp())
            self.register_parameter("log_step", None)

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return x
        scale = apply_log_step(self.scale, self.log_step, x[:1].numel() if self.training else 0)
        if not self.training:
            return torch.ops.compress.quantize_dequantize(x.float(), scale, self.zero_point)
        low, high = (bound - self.zero_point.float() for bound in bounds(self.zero_point))
        return straight_through(x.float(), scale, low, high)


class PackedLinear(nn.Module):
    """A Linear of narrow numbers. Holds float weights (O, I) until `pack_`, so that it can be trained."""

    weight_scale: Tensor

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    @property
    def packed(self) -> bool:
        return self.weight.dtype.itemsize == 1

    @torch.no_grad()
    def pack_(self) -> None:
        """Replaces the float weights by what is stored of them."""
        if not self.packed:
            levels, scale = self.quantize()
            del self.weight
            self.register_buffer("weight", levels)
            self.register_buffer("weight_scale", scale)

    @abstractmethod
    def quantize(self) -> tuple[Tensor, Tensor]:
        """What is stored of the weights, in one byte each value, and its scales."""


class QuantLinear(PackedLinear):
    """A Linear with 8-bit inputs and weights, float outside; `y = dequantize(x_q) @ dequantize(w_q) + bias`.

    Packed weights are int8 (I, O), as ONNX's MatMul takes them. Inputs are multiplied by a factor (I,) first, where
    there is one, and the weights hold its inverse.
    """

    def __init__(self, linear: nn.Linear, activations: Activations = "static", signed: bool = False):
        super().__init__(linear)
        self.register_buffer("weight_scale", channel_scale(linear.weight.detach()))
        self.register_parameter("weight_log_step", None)
        self.factor: Tensor | None
        self.register_buffer("factor", None)
        self.register_load_state_dict_pre_hook(_expect_factor)
        self.activations = activations
        self.input = Rounding(signed) if activations == "static" else None
        self.active = True  # False: weights stay float; `input` has a switch of its own
        self.whole_weights = False  # weights stay float while only activations are rounded

    def learn_scales(self) -> None:
        """Makes all scales things that training changes, by a factor that begins at 1."""
        assert self.input is not None
        self.input.log_step = nn.Parameter(torch.zeros_like(self.input.scale))
        if not self.whole_weights:
            self.weight_log_step = nn.Parameter(torch.zeros_like(self.weight_scale))

    @torch.no_grad()
    def fold_log_step(self) -> None:
        """What was learned becomes scales."""
        if self.input is not None:
            self.input.fold_log_step()
        if self.weight_log_step is not None:
            self.weight_scale.mul_(self.weight_log_step.exp())
            self.register_parameter("weight_log_step", None)

    def quantize(self) -> tuple[Tensor, Tensor]:
        self.fold_log_step()
        return quantize_weight(self.weight, self.weight_scale).t().contiguous(), self.weight_scale

    def scale_input(self, x: Tensor) -> Tensor:
        """(..., I) as it is rounded."""
        return x if self.factor is None else x * self.factor

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        x = self.scale_input(x)
        if not self.active:
            return F.linear(x if self.input is None else self.input(x), self.weight, self.bias)
        if self.input is None:
            y = self._dynamic(x.float())
        else:
            x = self.input(x)
            # A product of two matrices would be fused with the bias into a float Gemm before ONNX Runtime looks for
            # integer kernels; one of three dimensions is not.
            y = (x[None] @ self._weight_IO())[0] if x.ndim == 2 else x @ self._weight_IO()
        return y if self.bias is None else y + self.bias

    def _weight_IO(self) -> Tensor:
        """What is multiplied with, in float."""
        if self.packed:
            return torch.ops.compress.dequantize_columns(self.weight, self.weight_scale)
        if self.whole_weights:
            return self.weight.t()
        scale = apply_log_step(self.weight_scale, self.weight_log_step, self.weight.shape[1] if self.training else 0)
        most = scale.new_full((), 127.0)
        return straight_through(self.weight, scale[:, None], -most, most).t()

    def _dynamic(self, x: Tensor) -> Tensor:
        if self.packed:
            operators = torch.ops.compress
            product = operators.token_product if self.activations == "token" else operators.dynamic_product
            return product(x, self.weight, self.weight_scale)
        step = row_scale(x) if self.activations == "token" else (x.amax().clamp(min=0) - x.amin().clamp(max=0)) / 255
        most = x.new_full((), 255.0)
        return straight_through(x, step.detach().clamp(min=1e-8), -most, most) @ self._weight_IO()


def _expect_factor(layer: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """A state that is loaded says whether there is a factor."""
    stored, like = state.get(f"{prefix}factor"), layer.get_buffer("weight_scale")
    layer.register_buffer("factor", None if stored is None else torch.empty_like(stored, device=like.device))


def apply_log_step(scale: Tensor, log_step: Tensor | None, values: int) -> Tensor:
    """A scale with what training added to it.

    Args:
        values: that share one scale, of an image; the gradient is divided by the root of this many levels, as in LSQ
            (section 2.2), so that it is about as large as those of weights. 0: there is no gradient to scale.
    """
    if log_step is None:
        return scale
    if not values:
        return scale * log_step.exp()
    slow = 1 / (values * 127) ** 0.5
    return scale * (log_step * slow + (log_step * (1 - slow)).detach()).exp()


def replace_linears(model: VisionTransformer, skip: Sequence[str], make: Callable[[nn.Linear], nn.Module]) -> None:
    """Puts what `make` makes of it in the place of every Linear of the blocks that `skip` does not name.

    Args:
        skip: as `match_layers` reads it; names begin with `blocks.`.

    Raises:
        InputError: a pattern that fits no layer, or patterns that leave none.
    """
    found = model.encoder.blocks.named_modules(prefix="blocks")
    linears = {name: module for name, module in found if isinstance(module, nn.Linear)}
    for name in linears.keys() - match_layers([*linears], skip):
        model.encoder.set_submodule(name, make(linears[name]))


def round_attention(model: nn.Module, signed: bool) -> None:
    """Gives every `Attention` of a model places where queries, keys, values and weights are rounded to 8 bits."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.rounding = nn.ModuleDict({name: Rounding(signed) for name in ("q", "k", "v", "weights")})


def match_layers(layers: Sequence[str], skip: Sequence[str]) -> set[str]:
    """Those of `layers` that `skip` names: `blocks.0.mlp.fc2`, `fc2` (the last parts are enough), * for anything.

    Raises:
        InputError: a pattern that fits none, or patterns that leave none.
    """
    left: set[str] = set()
    for pattern in skip:
        fitting = {name for name in layers if fnmatchcase(f".{name}", f"*.{pattern}")}
        if not fitting:
            raise InputError(f"skip {pattern!r} fits no layer; the layers are {', '.join(layers[:4])}, and so on")
        left |= fitting
    if left and len(left) == len(layers):
        raise InputError(f"skip {', '.join(skip)} leaves no layer in integers; name fewer")
    return left


def quantized_layers(model: nn.Module) -> dict[str, QuantLinear]:
    """The integer layers of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantLinear)}
