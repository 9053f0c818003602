"""Shapes of weights -> geometry; what shapes do not tell is asked for."""

import math
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from baselines.errors import InputError
from baselines.vit import VisionTransformer, ViTConfig
from compress import files
from compress.importers.base import Foreign, Hints
from compress.importers.weights import Weights, sizes

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


def heads(weights: Weights, hints: Hints, dim: int, depth: int) -> int:
    """Number of heads, which shapes do not tell where queries of all heads lie in one matrix.

    Raises:
        InputError: it is neither given nor that of a published geometry.
    """
    found = hints.heads or PUBLISHED_HEADS.get((dim, depth))
    if found is None:
        raise InputError(
            f"{weights.path}: how many heads its blocks have cannot be read from such a file (width {dim}, {depth} "
            "blocks); say it with --heads"
        )
    if hints.heads is None:
        weights.notes.append(f"{found} heads, as in every published ViT of width {dim} and {depth} blocks (--heads)")
    if dim % found:
        raise InputError(f"--heads {found} does not divide the width {dim} of {weights.path}; give another number")
    return found


def image_size(weights: Weights, hints: Hints, patches: int, patch_size: int) -> tuple[int, int]:
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
    if not square(patches):
        raise InputError(
            f"{weights.path} has positions for {patches} patches, which make no square; "
            "give the size of its images with --image-size HEIGHTxWIDTH"
        )
    side = math.isqrt(patches) * patch_size
    return side, side


def square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def configure(weights: Weights, **settings: Any) -> ViTConfig:
    """The geometry; raises InputError where it cannot be."""
    if settings.get("classes") == 1:
        raise InputError(
            f"{weights.path} answers with a single number, where compress tells two or more classes apart; train it "
            "anew with a head of two classes"
        )
    try:
        return ViTConfig(**settings)
    except ValidationError as error:
        raise files.explain(error, str(weights.path)) from error


def check(foreign: Foreign, path: Path) -> None:
    """Raises InputError where weights do not fit the geometry that was read from them."""
    with torch.device("meta"):
        wanted = VisionTransformer(foreign.config).state_dict()
    for name in wanted.keys() | foreign.state.keys():
        got, asked = (tuple(each[name].shape) if name in each else None for each in (foreign.state, wanted))
        if got != asked:
            told = " and not ".join("missing" if each is None else sizes(each) for each in (got, asked))
            raise InputError(f"{path}: what should be {name} is {told}; fetch it again, or save it anew")
