"""Optimisers as Vision Transformers want them, and the learning rate over time."""

import math
import re
from collections.abc import Mapping

import torch
from torch import nn

from baselines.recipe import TrainConfig
from baselines.vit import VisionTransformer


def make_optimizer(model: nn.Module, config: TrainConfig, lr_scale: Mapping[str, float]) -> torch.optim.Optimizer:
    """AdamW or SGD with Nesterov momentum; biases, norms, embeddings and scalars are not decayed.

    What `config` freezes asks for no gradient any more.

    Args:
        lr_scale: factors on the learning rate, by prefix of the parameter name, beside those of `config`. The product
            of a group's factors is kept as its `lr_scale`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    depth = model.config.depth if isinstance(model, VisionTransformer) else 0
    for name, parameter in model.named_parameters():
        is_head = name.startswith(("head.", "distill_head."))
        parameter.requires_grad_(is_head or not config.freeze)
        if not parameter.requires_grad:
            continue
        decay = 0.0 if parameter.ndim < 2 or name.endswith(("pos_embed", "_token")) else config.weight_decay
        scale = next((value for prefix, value in lr_scale.items() if name.startswith(prefix)), 1.0)
        scale *= config.head_lr if is_head else config.layer_decay ** blocks_above(name, depth)
        groups.setdefault((decay, scale), []).append(parameter)
    parts = [{"params": params, "weight_decay": decay, "lr_scale": scale} for (decay, scale), params in groups.items()]
    if config.optimizer == "sgd":
        fused = config.precision != "fp16"  # it spoils its momentum in a step that the gradient scaler leaves out
        return torch.optim.SGD(parts, config.lr, config.momentum, nesterov=config.momentum > 0, fused=fused)
    return torch.optim.AdamW(parts, config.lr, (config.momentum, 0.999), fused=True)


def freeze_statistics(model: nn.Module) -> None:
    """Keeps a training model from moving the means and deviations of its batch norms, which are no parameters."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()


def blocks_above(name: str, depth: int) -> int:
    """Blocks between a parameter and the head, its own included: 0 for the last norm, depth + 1 for the embedding.

    As in BEiT's layer-wise decay (arXiv 2106.08254).
    """
    if block := re.search(r"blocks\.(\d+)\.", name):
        return depth - int(block[1])
    embedding = name.startswith("patch_embed") or name in ("cls_token", "distill_token", "pos_embed")
    return depth + 1 if embedding else 0


def schedule(step: int, total: int, warmup: float, shape: str = "cosine", final: float = 0.01) -> float:
    """Factor on the learning rate: linear warm-up, then from 1 to `final` as a cosine, a line, or not at all."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(total - warmup, 1)
    left = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[shape]
    return final + (1 - final) * left
