"""Shapes of weights -> geometry; what shapes do not tell is asked for."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from baselines.errors import InputError
from baselines.vit import VisionTransformer, ViTConfig
from compress import files
from compress.importers.base import Hints, ImportedModel
from compress.importers.weights import Weights, format_shape

# Heads of published ViTs, Ti to G, by width and depth (arXiv 2010.11929, 2012.12877, 2106.04560)
PUBLISHED_HEADS = {
    (192, 12): 3,
    (384, 12): 6,
    (768, 12): 12,
    (1024, 24): 16,
    (1280, 32): 16,
    (1408, 40): 16,
    (1664, 48): 16,
}


def infer_heads(weights: Weights, hints: Hints, dim: int, depth: int) -> int:
    """Number of heads, which shapes do not tell where queries of all heads lie in one matrix.

    Raises:
        InputError: it is neither given nor that of a published geometry.
    """
    heads = hints.heads or PUBLISHED_HEADS.get((dim, depth))
    if heads is None:
        raise InputError(
            f"{weights.path}: how many heads its blocks have cannot be read from such a file (width {dim}, {depth} "
            "blocks); say it with --heads"
        )
    if hints.heads is None:
        weights.notes.append(f"{heads} heads, as in every published ViT of width {dim} and {depth} blocks (--heads)")
    if dim % heads:
        raise InputError(f"--heads {heads} does not divide the width {dim} of {weights.path}; give another number")
    return heads


def confirm_heads(weights: Weights, hints: Hints, heads: int, source: str = "") -> int:
    """The number of heads that a file tells, by `source`; raises InputError where the user says another."""
    if hints.heads not in (None, heads):
        what = "one head" if heads == 1 else f"{heads} heads"
        raise InputError(f"{weights.path} has {what} in each block{source}; leave out --heads {hints.heads}")
    return heads


def infer_image_size(weights: Weights, hints: Hints, patches: int, patch_size: int) -> tuple[int, int]:
    """Height and width in pixels of images that make so many patches: square, unless it is said.

    Raises:
        InputError: they make no square, or what was said makes another number of patches.
    """
    if hints.image_size is not None:
        height, width = hints.image_size
        if height % patch_size or width % patch_size or height * width != patches * patch_size**2:
            raise InputError(
                f"--image-size {height}x{width} does not make the {patches} patches of {patch_size} x {patch_size} "
                f"pixels that {weights.path} has positions for; give another size"
            )
        return hints.image_size
    if not is_square(patches):
        raise InputError(
            f"{weights.path} has positions for {patches} patches, which make no square; "
            "give the size of its images with --image-size HEIGHTxWIDTH"
        )
    side = math.isqrt(patches) * patch_size
    return side, side


def is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def infer_config(weights: Weights, state: Mapping[str, Tensor], **settings: Any) -> ViTConfig:
    """The geometry of a state of ours, by the shapes of its tensors.

    Args:
        settings: what shapes do not tell: heads, image size and kinds of layers. They go before what shapes tell.

    Raises:
        InputError: it cannot be.
    """
    attention, mlp = (f"encoder.blocks.0.{name}.weight" for name in ("attn.proj", "mlp.fc1"))
    for name in (attention, mlp, "head.weight", "representation.weight"):
        if name in state and (state[name].ndim != 2 or not state[name].numel()):
            theirs = weights.sources.get(name, name)
            raise weights.error(f"{theirs} is {format_shape(state[name].shape)}, which no such weight can be")
    dim, inner = state[attention].shape
    patches, classes = state.get("patch_embed.weight"), len(state["head.weight"])
    if classes == 1:
        raise InputError(
            f"{weights.path} answers with a single number, where compress tells two or more classes apart; train it "
            "anew with a head of two classes"
        )
    found: dict[str, Any] = {
        "dim": dim,
        "depth": sum(name.endswith(".norm1.weight") for name in state),
        "head_dim": 0 if inner == dim else inner // settings["heads"],
        "mlp_dim": len(state[mlp]),
        "classes": classes,
        "pool": "cls" if "cls_token" in state else "mean",
        "registers": state["registers"].shape[1] if "registers" in state else 0,
        "distill_token": "distill_token" in state,
        "representation": len(state.get("representation.weight", ())),
        "pre_norm": "pre_norm.weight" in state,
        "qk_norm": "encoder.blocks.0.attn.q_norm.weight" in state,
        "layer_scale": float("encoder.blocks.0.scale1" in state),
    }
    if patches is not None:
        found |= {"channels": patches.shape[1], "patch_size": patches.shape[2]}
    try:
        return ViTConfig(**{**found, **settings})
    except ValidationError as error:
        raise files.explain(error, str(weights.path)) from error


def make_empty_head(state: Mapping[str, Tensor], dim: int, name: str = "head") -> dict[str, Tensor]:
    """A head for a model that knows no classes: whatever takes it up begins with its own.

    Args:
        state: what was read; a layer before the head decides on its width.
    """
    width = len(state.get("representation.bias", ())) or dim
    return {f"{name}.weight": torch.zeros(2, width), f"{name}.bias": torch.zeros(2)}


def check_shapes(weights: Weights, model: ImportedModel) -> None:
    """Raises InputError where weights do not fit the geometry that was read from them."""
    with torch.device("meta"):
        wanted = VisionTransformer(model.config).state_dict()
    for name in wanted.keys() ^ model.state.keys():
        raise weights.error(f"it {'lacks' if name in wanted else 'has'} what should be {name}")
    for name, value in model.state.items():
        if value.shape != wanted[name].shape:
            raise weights.misfit(weights.sources.get(name, name), value.shape, wanted[name].shape)
