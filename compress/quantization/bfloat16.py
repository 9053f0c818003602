"""A model in bfloat16 that still takes and gives float32."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from baselines.classifier import Classifier

Model = TypeVar("Model", bound=Classifier)


def convert_to_bf16(model: Model) -> Model:
    """Every parameter and buffer becomes bfloat16; images are rounded on their way in, logits widened at the end."""
    model.to(torch.bfloat16)
    first, last = model.ends
    first.register_forward_pre_hook(_round)
    last.register_forward_hook(_widen)
    return model


def _round(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
    return (inputs[0].to(torch.bfloat16),)


def _widen(_module: nn.Module, _inputs: tuple[Any, ...], logits: Tensor) -> Tensor:
    return logits.float()
