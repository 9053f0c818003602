"""Weights of one training as the start of another: for other classes, and for images of another size.

Legend: N tokens, D width.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.errors import InputError
from baselines.geometry import UNEVEN, ViTConfig
from baselines.vit import VisionTransformer

SIZES = ("channels", "patch_size", "dim", "depth", "heads", "head_dim", "mlp_dim", "representation", "registers")
SIZES += UNEVEN
KINDS = ("tokenizer", "norm", "norm_at", "pre_norm", "activation", "pool", "distill_token", "layer_scale", "qk_norm")
HEADS = ("head.", "distill_head.")


def check(old: ViTConfig, new: ViTConfig, source: str) -> None:
    """Raises InputError where weights of `old`, which came from `source`, cannot start a model `new`."""
    apart = [name for name in (*SIZES, *KINDS) if _matters(old, name) != _matters(new, name)]
    if apart:
        told = " and ".join(f"{name} {getattr(old, name)!r}, not {getattr(new, name)!r}" for name in apart)
        raise InputError(f"{source} has {told}; leave {' and '.join(apart)} out of [model], or train from scratch")


def _matters(config: ViTConfig, name: str) -> object:
    """A setting as weights depend on it: where LayerScale starts is free, and a width may be said or left to `dim`."""
    if name == "layer_scale":
        return config.layer_scale > 0
    return config.inner_dim != config.dim and config.head_dim if name == "head_dim" else getattr(config, name)


def start_from(
    model: VisionTransformer, state: Mapping[str, Tensor], old: ViTConfig, *, new_head: bool, source: str
) -> None:
    """Loads weights into a model that has the geometry of `old`, but for classes and image size.

    Position embeddings are resized to its grid.

    Args:
        new_head: leave the heads of `model` as they are.
        source: where the weights came from.

    Raises:
        InputError: geometries or weights do not fit.
    """
    check(old, model.config, source)
    kept, own = (
        {name: value for name, value in weights.items() if not (new_head and name.startswith(HEADS))}
        for weights in (state, model.state_dict())
    )
    try:
        kept["pos_embed"] = resize_positions(kept["pos_embed"], old, model.config)
        wrong = sorted(own.keys() ^ kept.keys())
        wrong += [name for name, value in own.items() if name in kept and kept[name].shape != value.shape]
    except (KeyError, RuntimeError):
        wrong = ["pos_embed"]
    if wrong:
        raise InputError(
            f"{source} does not hold the weights its own description asks for ({wrong[0]}); fetch it again"
        )
    model.load_state_dict(kept, strict=False)


def resize_positions(pos_embed: Tensor, old: ViTConfig, new: ViTConfig) -> Tensor:
    """Position embeddings (1, N, D) of the grid of `old` -> of that of `new`; those of prefix tokens stay.

    Bicubic, a pixel being an area and not a point. With `antialias` torch takes the kernel of Keys 1981 (a = -0.5),
    which leaves a linear ramp one; without it, a = -0.75, which does not.
    """
    if old.grid == new.grid:
        return pos_embed
    first, grid = pos_embed.split([old.prefix_tokens, pos_embed.shape[1] - old.prefix_tokens], 1)
    image = grid.float().transpose(1, 2).unflatten(2, old.grid)
    resized = F.interpolate(image, new.grid, mode="bicubic", antialias=True)
    return torch.cat([first, resized.flatten(2).transpose(1, 2).to(grid.dtype)], 1)
