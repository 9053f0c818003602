"""A model in bfloat16 that still takes and gives float32."""

from typing import TypeVar

import torch

from baselines.classifier import Classifier

Model = TypeVar("Model", bound=Classifier)


def convert_to_bf16(model: Model) -> Model:
    """Every parameter and buffer becomes bfloat16; images are rounded on their way in, logits widened at the end."""
    model.to(torch.bfloat16)
    first, last = model.ends
    first.register_forward_pre_hook(lambda _first, inputs: (inputs[0].to(torch.bfloat16),))
    last.register_forward_hook(lambda _last, _inputs, logits: logits.float())
    return model
