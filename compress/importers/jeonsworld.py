"""ViT-pytorch (jeonsworld), which many fine-tuning projects use.

    transformer.embeddings. patch_embeddings  cls_token  position_embeddings
    transformer.encoder.layer.N. attention_norm  attn.query  attn.key  attn.value  attn.out  ffn_norm  ffn.fc1  ffn.fc2
    transformer.encoder.encoder_norm  head

Read from the names and shapes that its code writes. Norms have an epsilon of 1e-6 there.

Legend: D width, N tokens.
"""

import torch
from torch import Tensor

from compress.importers.base import Family, Foreign, Hints
from compress.importers.shapes import configure, heads, image_size
from compress.importers.weights import Weights

EPS = 1e-6
EMBEDDINGS, ENCODER = "transformer.embeddings.", "transformer.encoder."
LAYERS = {"attn.proj": "attn.out", "mlp.fc1": "ffn.fc1", "mlp.fc2": "ffn.fc2"}  # ours: theirs
NORMS = {"norm1": "attention_norm", "norm2": "ffn_norm"}


def read(weights: Weights, hints: Hints) -> Foreign:
    """See `Family`."""
    dim, channels, patch_size, _ = weights.shape(f"{EMBEDDINGS}patch_embeddings.weight", 4)
    depth = weights.count(f"{ENCODER}layer.{{}}.attention_norm.weight")
    mlp_dim, _ = weights.shape(f"{ENCODER}layer.0.ffn.fc1.weight", 2)
    _, count, _ = weights.shape(f"{EMBEDDINGS}position_embeddings", 3)
    size = image_size(weights, hints, count - 1, patch_size)
    state = {
        "cls_token": weights.take(f"{EMBEDDINGS}cls_token", 1, 1, dim),
        "pos_embed": weights.take(f"{EMBEDDINGS}position_embeddings", 1, count, dim),
        **weights.linear("patch_embed", f"{EMBEDDINGS}patch_embeddings", dim, channels, patch_size, patch_size),
    }
    for i in range(depth):
        state |= block(weights, f"{ENCODER}layer.{i}.", f"encoder.blocks.{i}.", dim)
    state |= weights.norm("norm", f"{ENCODER}encoder_norm", dim)
    classes, _ = weights.shape("head.weight", 2)
    state |= weights.linear("head", "head", classes, dim)
    config = configure(
        weights,
        image_size=size,
        channels=channels,
        patch_size=patch_size,
        dim=dim,
        depth=depth,
        heads=heads(weights, hints, dim, depth),
        mlp_dim=mlp_dim,
        classes=classes,
        norm_eps=EPS,
    )
    return Foreign(config, state)


def block(weights: Weights, theirs: str, ours: str, dim: int) -> dict[str, Tensor]:
    """The weights of one block under our names."""
    state: dict[str, Tensor] = {}
    for name, foreign in NORMS.items():
        state |= weights.norm(ours + name, theirs + foreign, dim)
    parts = [weights.linear("qkv", f"{theirs}attn.{name}", dim, dim) for name in ("query", "key", "value")]
    state |= {f"{ours}attn.{name}": torch.cat([part[name] for part in parts]) for name in parts[0]}
    for name, foreign in LAYERS.items():
        state |= weights.linear(ours + name, theirs + foreign, *weights.shape(f"{theirs}{foreign}.weight", 2))
    return state


FAMILY = Family("ViT-pytorch", f"{ENCODER}encoder_norm.weight", read)
