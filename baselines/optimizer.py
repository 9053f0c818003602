"""AdamW as Vision Transformers want it, and its learning rate over time."""

import math
from collections.abc import Mapping

import torch
from torch import nn


def make_optimizer(
    model: nn.Module, lr: float, weight_decay: float, lr_scale: Mapping[str, float]
) -> torch.optim.AdamW:
    """Biases, norms, embeddings and scalars are not decayed.

    Args:
        lr_scale: factors on the learning rate, by prefix of the parameter name; a group's is kept as `lr_scale`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay = 0.0 if parameter.ndim < 2 or name.endswith(("pos_embed", "cls_token")) else weight_decay
        scale = next((value for prefix, value in lr_scale.items() if name.startswith(prefix)), 1.0)
        groups.setdefault((decay, scale), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": params, "weight_decay": decay, "lr_scale": scale} for (decay, scale), params in groups.items()],
        lr=lr,
        fused=True,
    )


def schedule(step: int, total: int, warmup: float) -> float:
    """Factor on the learning rate: linear warm-up, then cosine from 1 to 0.01."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(total - warmup, 1)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2
