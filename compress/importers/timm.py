"""timm's `VisionTransformer` and what shares its names: DeiT, DeiT-III, DINOv2, MAE, as their authors published them.

    patch_embed.proj  cls_token  dist_token  reg_token  pos_embed  norm_pre
    blocks.N. norm1  attn.qkv  attn.q_norm  attn.k_norm  attn.proj  ls1.gamma  norm2  mlp.fc1  mlp.fc2  ls2.gamma
    norm | fc_norm  head  head_dist

Read from the names and shapes that timm 1.0 writes. Norms have an epsilon of 1e-6 there.

Legend: D width, N tokens.
"""

from typing import Any

import torch
from torch import Tensor

from compress.importers.base import Family, Foreign, Hints, Weights, configure, heads, image_size, square

EPS = 1e-6
LAYERS = {"attn.qkv": "attn.qkv", "attn.proj": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}  # ours: theirs
NORMS = {"norm1": "norm1", "norm2": "norm2"}


def read(weights: Weights, hints: Hints) -> Foreign:
    """See `Family`."""
    dim, channels, patch_size, _ = weights.shape("patch_embed.proj.weight")
    depth = weights.count("blocks.{}.norm1.weight")
    mlp_dim = weights.shape("blocks.0.mlp.fc1.weight")[0]
    qk_norm, scaled = "blocks.0.attn.q_norm.weight" in weights, "blocks.0.ls1.gamma" in weights
    if qk_norm:
        number = dim // weights.shape("blocks.0.attn.q_norm.weight")[0]
    else:
        number = heads(weights, hints, dim, depth)
    state, sizes = tokens(weights, hints, dim, patch_size)
    state |= weights.linear("patch_embed", "patch_embed.proj")
    if "norm_pre.weight" in weights:
        sizes["pre_norm"] = True
        state |= weights.norm("pre_norm", "norm_pre", dim)
    for i in range(depth):
        state |= block(weights, f"blocks.{i}.", f"encoder.blocks.{i}.", qk_norm=qk_norm, scaled=scaled)
    pooled = "fc_norm.weight" in weights
    state |= weights.norm("norm", "fc_norm" if pooled else "norm", dim)
    known = "head.weight" in weights
    state |= weights.linear("head", "head") if known else no_head(dim)
    if sizes.get("distill_token"):
        state |= weights.linear("distill_head", "head_dist")
    config = configure(
        weights,
        channels=channels,
        patch_size=patch_size,
        dim=dim,
        depth=depth,
        heads=number,
        mlp_dim=mlp_dim,
        classes=len(state["head.weight"]),
        norm_eps=EPS,
        norm_at="pooled" if pooled else "tokens",
        qk_norm=qk_norm,
        layer_scale=1.0 if scaled else 0.0,
        **sizes,
    )
    return Foreign(config, state, head=known)


def block(weights: Weights, theirs: str, ours: str, *, qk_norm: bool, scaled: bool) -> dict[str, Tensor]:
    """The weights of one block under our names."""
    dim = weights.shape(f"{theirs}norm1.weight")[0]
    state: dict[str, Tensor] = {}
    for name, foreign in NORMS.items():
        state |= weights.norm(ours + name, theirs + foreign, dim)
    for name, foreign in LAYERS.items():
        state |= weights.linear(ours + name, theirs + foreign)
    for name in ("q_norm", "k_norm") if qk_norm else ():
        state |= weights.norm(
            f"{ours}attn.{name}", f"{theirs}attn.{name}", *weights.shape(f"{theirs}attn.{name}.weight")
        )
    for number in ("1", "2") if scaled else ():
        state[f"{ours}scale{number}"] = weights.take(f"{theirs}ls{number}.gamma", dim)
    return state


def tokens(weights: Weights, hints: Hints, dim: int, patch_size: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tokens of the prefix and position embeddings (1, N, D), and the settings they entail."""
    cls, taught, registers = (weights.get(name) for name in ("cls_token", "dist_token", "reg_token"))
    looked_at = [each for each in (cls, taught) if each is not None]
    mean = cls is None or "fc_norm.weight" in weights
    prefix = [*looked_at, *([] if registers is None else [registers])]
    count, first = sum(each.shape[1] for each in prefix), len(looked_at)
    places = weights.take("pos_embed")
    size, with_places = None, 0
    for with_places in dict.fromkeys((count, first, 0)):  # tokens of the prefix that have a place too
        patches = places.shape[1] - with_places
        asked = hints.image_size and hints.image_size[0] * hints.image_size[1] == patches * patch_size**2
        if asked or (not hints.image_size and square(patches)):
            break
    size = image_size(weights, hints, places.shape[1] - with_places, patch_size)
    free = torch.zeros(1, count - with_places, dim)
    state = {"pos_embed": torch.cat([places[:, :with_places], free, places[:, with_places:]], 1)}
    if mean:
        state |= {"registers": torch.cat(prefix, 1)} if prefix else {}
        return state, {"image_size": size, "pool": "mean", "registers": count}
    assert cls is not None
    state["cls_token"] = cls
    state |= {} if taught is None else {"distill_token": taught}
    state |= {} if registers is None else {"registers": registers}
    return state, {
        "image_size": size,
        "pool": "cls",
        "distill_token": taught is not None,
        "registers": 0 if registers is None else registers.shape[1],
    }


def no_head(dim: int) -> dict[str, Tensor]:
    """A head for a model that knows no classes: whatever takes it up begins with its own."""
    return {"head.weight": torch.zeros(2, dim), "head.bias": torch.zeros(2)}


FAMILY = Family("timm", "patch_embed.proj.weight", read)
