"""ViT-pytorch (jeonsworld), which many fine-tuning projects use.

    transformer.embeddings. patch_embeddings  cls_token  position_embeddings
    transformer.encoder.layer.N. attention_norm  attn.query  attn.key  attn.value  attn.out  ffn_norm  ffn.fc1  ffn.fc2
    transformer.encoder.encoder_norm  head

Read from the names and shapes that its code writes. Norms have an epsilon of 1e-6 there.

Legend: D width, N tokens.
"""

from compress.importers.base import Hints, ImportedModel, Layout
from compress.importers.geometry import infer_config, infer_heads, infer_image_size
from compress.importers.weights import Weights

EPS = 1e-6
EMBEDDINGS, ENCODER = "transformer.embeddings.", "transformer.encoder."
LAYERS = {"attn.proj": "attn.out", "mlp.fc1": "ffn.fc1", "mlp.fc2": "ffn.fc2"}  # ours: theirs
NORMS = {"norm1": "attention_norm", "norm2": "ffn_norm"}
QKV = ("query", "key", "value")


def read(weights: Weights, hints: Hints) -> ImportedModel:
    """See `Layout`."""
    dim, channels, patch_size, _ = weights.shape(f"{EMBEDDINGS}patch_embeddings.weight", 4)
    depth = weights.count(f"{ENCODER}layer.{{}}.attention_norm.weight")
    weights.shape(f"{ENCODER}layer.0.ffn.fc1.weight", 2)
    _, count, _ = weights.shape(f"{EMBEDDINGS}position_embeddings", 3)
    size, patches = infer_image_size(weights, hints, count - 1, patch_size), (channels, patch_size, patch_size)
    state = {
        "cls_token": weights.take(f"{EMBEDDINGS}cls_token", 1, 1, dim),
        "pos_embed": weights.take(f"{EMBEDDINGS}position_embeddings", 1, count, dim),
        **weights.take_layer("patch_embed", f"{EMBEDDINGS}patch_embeddings", dim, *patches, bias=None),
        **weights.take_layer("norm", f"{ENCODER}encoder_norm", dim, bias=None),
        **weights.take_layer("head", "head", weights.shape("head.weight", 2)[0], dim, bias=None),
    }
    for i in range(depth):
        ours, theirs = f"encoder.blocks.{i}.", f"{ENCODER}layer.{i}."
        state |= weights.take_qkv(f"{ours}attn.qkv", [f"{theirs}attn.{name}" for name in QKV], dim, dim, bias=None)
        for name, other in NORMS.items():
            state |= weights.take_layer(ours + name, theirs + other, dim, bias=None)
        for name, other in LAYERS.items():
            shape = weights.shape(f"{theirs}{other}.weight", 2)
            state |= weights.take_layer(ours + name, theirs + other, *shape, bias=None)
    heads = infer_heads(weights, hints, dim, depth)
    return ImportedModel(infer_config(weights, state, heads=heads, image_size=size, norm_eps=EPS), state)


LAYOUT = Layout("ViT-pytorch", f"{ENCODER}encoder_norm.weight", read)
