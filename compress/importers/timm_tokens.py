"""What stands in front of the patches of a model of timm, and the positions of all.

Class token, distillation token and registers come in this order; where the head looks at the mean over patches, all of
them are registers of ours. Positions are those of all tokens, or of patches alone (`no_embed_class`: DeiT-III, newer
models), or, in DINOv2 by its authors, of class token and patches, whose registers join after positions were added.

Legend: D width, N tokens.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from baselines.errors import InputError
from compress.importers.base import Hints
from compress.importers.geometry import infer_image_size, is_square
from compress.importers.timm_settings import Settings, unknown_part
from compress.importers.weights import Weights

MOST_PATCHES = 2**16  # that memory is set aside for where no position shows that there are so many


def take_tokens(
    weights: Weights, hints: Hints, told: Settings, dim: int, patch_size: int
) -> tuple[dict[str, Tensor], bool, tuple[int, int]]:
    """Tokens of the prefix and position embeddings (1, N, D); whether the head looks at a mean; the size of images.

    Raises:
        InputError: the size of images, or what has a position, cannot be read from them.
    """
    names = ("cls_token", "dist_token", "reg_token", "register_tokens")
    prefix = {name: weights.take_tokens(name, dim) for name in names if name in weights}
    if "cls_token" not in prefix and told.pool == "token":
        weights.shape("cls_token")  # it is lost
    mean = "cls_token" not in prefix or (told.pool == "avg" if told.pool else "fc_norm.weight" in weights)
    count = sum(each.shape[1] for each in prefix.values())
    if "register_tokens" in prefix:
        placed: Sequence[int] = (count - prefix["register_tokens"].shape[1],)
    else:
        placed = (0,) if told.model_args.no_embed_class else tuple(dict.fromkeys((count, 0)))
    if mean and count and told.model_args.pool_include_prefix:
        raise unknown_part(weights, "a mean over all tokens (pool_include_prefix), says its config.json")
    positions, size = take_positions(weights, hints, told, placed, (count, dim, patch_size))
    state = {"pos_embed": positions}
    for theirs, ours in (("cls_token", "cls_token"), ("dist_token", "distill_token")):
        if theirs in prefix and not mean:
            state[ours] = prefix.pop(theirs)
    return state | ({"registers": torch.cat([*prefix.values()], 1)} if prefix else {}), mean, size


def take_positions(
    weights: Weights, hints: Hints, told: Settings, placed: Sequence[int], sizes: tuple[int, int, int]
) -> tuple[Tensor, tuple[int, int]]:
    """Positions of all tokens (1, N, D), 0 where there are none, and height and width of images.

    Args:
        placed: how many tokens of the prefix may have one, the likeliest first.
        sizes: number of tokens of the prefix, D, and the side of a patch.
    """
    count, dim, patch_size = sizes
    size = hints.image_size or told.image_size
    if "pos_embed" not in weights:
        if told.model_args.pos_embed not in ("", "none"):
            raise unknown_part(weights, "no pos_embed, as models with rotary positions (DINOv3, EVA-02)")
        if size is None:
            raise InputError(
                f"{weights.path} has no positions, so how large its images are cannot be read from it; say it with "
                "--image-size HEIGHTxWIDTH"
            )
        patches = (size[0] // patch_size) * (size[1] // patch_size)
        if patches > MOST_PATCHES:
            raise InputError(
                f"images of {size[0]} x {size[1]} pixels are {patches:,} patches of {weights.path}; give a smaller "
                "size with --image-size HEIGHTxWIDTH"
            )
        return torch.zeros(1, count + patches, dim), size
    found = weights.take_tokens("pos_embed", dim)
    number = found.shape[1]
    fitting = [each for each in placed if size and size[0] * size[1] == (number - each) * patch_size**2]
    if fitting:
        hints = replace(hints, image_size=size)
    elif hints.image_size is None:
        fitting = [each for each in placed if is_square(number - each)]
    if len(fitting) > 1:
        raise InputError(
            f"{weights.path}: whether its {number} positions are those of patches alone cannot be read from it; say "
            "how large its images are with --image-size HEIGHTxWIDTH"
        )
    own = fitting[0] if fitting else placed[0]
    size = infer_image_size(weights, hints, number - own, patch_size)
    return torch.cat([found[:, :own], torch.zeros(1, count - own, dim), found[:, own:]], 1), size
