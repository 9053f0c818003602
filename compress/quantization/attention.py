"""The two products of attention in 8 bits: queries, keys, values and the attention itself are rounded before them."""

from torch import nn

from baselines.vit import Attention
from compress.quantization.linear import Rounding


def round_attention(model: nn.Module, signed: bool) -> None:
    """Gives every `Attention` of a model places where its operands are rounded."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.rounding = nn.ModuleDict({name: Rounding(signed) for name in ("q", "k", "v", "weights")})
