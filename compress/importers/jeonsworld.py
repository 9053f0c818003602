"""ViT-pytorch (jeonsworld), which many fine-tuning projects use.

    transformer.embeddings. patch_embeddings  cls_token  position_embeddings
    transformer.encoder.layer.N. attention_norm  attn.query  attn.key  attn.value  attn.out  ffn_norm  ffn.fc1  ffn.fc2
    transformer.encoder.encoder_norm  head

Read from the names and shapes that its code writes. Norms have an epsilon of 1e-6 there.
"""

from compress.importers.base import Hints, ImportedModel, Layout
from compress.importers.geometry import infer_config, infer_heads, infer_image_size
from compress.importers.weights import Weights

EPS = 1e-6
EMBEDDINGS, ENCODER = "transformer.embeddings.", "transformer.encoder."
LAYERS = {"patch_embed": f"{EMBEDDINGS}patch_embeddings", "norm": f"{ENCODER}encoder_norm", "head": "head"}
BLOCK = {  # ours: theirs
    "norm1": "attention_norm",
    "attn.proj": "attn.out",
    "norm2": "ffn_norm",
    "mlp.fc1": "ffn.fc1",
    "mlp.fc2": "ffn.fc2",
}


def read(weights: Weights, hints: Hints) -> ImportedModel:
    """See `Layout`."""
    dim, _, patch_size, _ = weights.shape(f"{EMBEDDINGS}patch_embeddings.weight", 4)
    depth = weights.count(f"{ENCODER}layer.{{}}.attention_norm.weight")
    state = {
        "cls_token": weights.take(f"{EMBEDDINGS}cls_token", 1, 1, dim),
        "pos_embed": weights.take_tokens(f"{EMBEDDINGS}position_embeddings", dim),
        **weights.take_layers(LAYERS, bias=None),
    }
    size = infer_image_size(weights, hints, state["pos_embed"].shape[1] - 1, patch_size)
    for i in range(depth):
        ours, theirs = f"encoder.blocks.{i}.", f"{ENCODER}layer.{i}."
        qkv = [f"{theirs}attn.{name}" for name in ("query", "key", "value")]
        state |= weights.take_qkv(f"{ours}attn.qkv", qkv, bias=None)
        state |= weights.take_layers({ours + name: theirs + other for name, other in BLOCK.items()}, bias=None)
    heads = infer_heads(weights, hints, dim, depth)
    return ImportedModel(infer_config(weights, state, heads=heads, image_size=size, norm_eps=EPS), state)


LAYOUT = Layout("ViT-pytorch", f"{ENCODER}encoder_norm.weight", read, heads=("head",))
