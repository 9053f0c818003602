"""Weights of timm's ViT in the layouts of other code: names and shapes alone, the numbers stay."""

from typing import Any

import numpy as np

SIDE = 32  # pixels of an image
SIZES: dict[str, Any] = {
    "img_size": SIDE, "patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3, "num_classes": 10,
}  # fmt: skip


def as_google(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """timm's weights by the names and shapes of google-research/vision_transformer."""
    top = {"encoder_norm": "norm"}
    made = {
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for i in range(SIZES["depth"]):
        block, theirs = f"blocks.{i}.", f"encoderblock_{i}/"
        top |= {f"{theirs}LayerNorm_0": f"{block}norm1", f"{theirs}LayerNorm_2": f"{block}norm2"}
        split = (SIZES["num_heads"], -1)
        qkv = zip(*(np.split(state[f"{block}attn.qkv.{kind}"], 3) for kind in ("weight", "bias")), strict=True)
        attention = f"Transformer/{theirs}MultiHeadDotProductAttention_1/"
        for name, (weight, bias) in zip(("query", "key", "value"), qkv, strict=True):
            made |= {
                f"{attention}{name}/kernel": weight.T.reshape(SIZES["embed_dim"], *split),
                f"{attention}{name}/bias": bias.reshape(split),
            }
        made[f"{attention}out/kernel"] = state[f"{block}attn.proj.weight"].T.reshape(*split, SIZES["embed_dim"])
        made[f"{attention}out/bias"] = state[f"{block}attn.proj.bias"]
        for number, name in enumerate(("fc1", "fc2")):
            layer = f"Transformer/{theirs}MlpBlock_3/Dense_{number}/"
            made |= {
                f"{layer}kernel": state[f"{block}mlp.{name}.weight"].T,
                f"{layer}bias": state[f"{block}mlp.{name}.bias"],
            }
    for theirs, ours in top.items():
        made |= {
            f"Transformer/{theirs}/scale": state[f"{ours}.weight"],
            f"Transformer/{theirs}/bias": state[f"{ours}.bias"],
        }
    return made


def as_jeonsworld(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """timm's weights by the names of jeonsworld's ViT-pytorch."""
    names = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    parts = {
        "patch_embed.proj.": "embeddings.patch_embeddings.",
        "norm.": "encoder.encoder_norm.",
        "blocks.": "encoder.layer.",
    }
    inner = {".norm1.": ".attention_norm.", ".norm2.": ".ffn_norm.", ".mlp.": ".ffn.", ".attn.proj.": ".attn.out."}
    made = {}
    for name, value in state.items():
        theirs = names.get(name, name)
        for ours, new in parts.items():
            theirs = new + theirs.removeprefix(ours) if theirs.startswith(ours) else theirs
        for ours, new in inner.items():
            theirs = theirs.replace(ours, new)
        theirs = theirs if theirs.startswith("head.") else f"transformer.{theirs}"
        found = zip(("query", "key", "value"), np.split(value, 3), strict=True) if ".qkv." in theirs else [("", value)]
        made |= {theirs.replace("qkv", part): each for part, each in found}
    return made
