"""What is kept in 16 bits: a whole model in bfloat16, or what stays float beside integers, on disk.

Tokenizer, positions and head are an eighth of a small int8 file otherwise. They are rounded to half precision once,
when the model is calibrated, so that storing them so loses nothing; every engine widens them when it loads the file.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn

from baselines.classifier import Classifier
from compress.quantization.linear import QuantLinear

LEAST = 256  # values of a tensor that is worth it
Model = TypeVar("Model", bound=Classifier)


def convert_to_bf16(model: Model) -> Model:
    """Every parameter and buffer becomes bfloat16; images are rounded on their way in, logits widened at the end."""
    model.to(torch.bfloat16)
    first, last = model.ends
    first.register_forward_pre_hook(lambda _first, inputs: (inputs[0].to(torch.bfloat16),))
    last.register_forward_hook(lambda _last, _inputs, logits: logits.float())
    return model


@torch.no_grad()
def round_unquantized(model: nn.Module) -> None:
    """Rounds the matrices of a model, outside its integer layers, to what 16 bits hold."""
    own = {id(parameter) for module in model.modules() if isinstance(module, QuantLinear)
           for parameter in module.parameters()}  # fmt: skip
    for parameter in model.parameters():
        if id(parameter) not in own and parameter.numel() >= LEAST and parameter.dim() > 1:
            halved = parameter.half().to(parameter.dtype)
            parameter.copy_(torch.where(halved.isfinite(), halved, parameter))


def shrink_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values, in 16 bits where nothing is lost by it."""
    return {name: value.half() if _fits(value) else value for name, value in state.items()}


def _fits(value: Tensor) -> bool:
    wide = value.dtype == torch.float32 and value.numel() >= LEAST
    return wide and torch.equal(value.half().float(), value)
