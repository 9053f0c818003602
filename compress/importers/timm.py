"""timm's `VisionTransformer`, and what shares its names: DeiT, DeiT-III, DINO, DINOv2, MAE, as their authors left them.

    patch_embed.proj  cls_token  dist_token  reg_token | register_tokens  pos_embed  norm_pre
    blocks.N. norm1  attn.qkv  attn.q_norm  attn.k_norm  attn.proj  ls1.gamma | gamma_1
              norm2  mlp.fc1  mlp.fc2  ls2.gamma | gamma_2
    norm | fc_norm  pre_logits.fc  head  head_dist

Read from the names and shapes that timm 1.0 writes. What they do not show is taken from config.json where there is one
(`timm_settings.py`). Else the head looks at the mean where there is `fc_norm` or no class token; GELU is exact, though
models of CLIP named quickgelu, and some of SigLIP, look the same; positions are learned alone; norms stand before
attention and MLP, with an epsilon of 1e-6, or of 1e-5 where one stands in front of all blocks (CLIP).
"""

import itertools
import re
from dataclasses import replace

from torch import Tensor

from compress.importers import timm_export, timm_settings
from compress.importers.base import Hints, ImportedModel, Layout
from compress.importers.geometry import confirm_heads, infer_config, infer_heads, make_empty_head
from compress.importers.timm_settings import Settings, unknown_part
from compress.importers.timm_tokens import take_tokens
from compress.importers.weights import Weights, format_shape

LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")  # named alike here and there
BLOCK = re.compile(r"blocks\.(?:\d+\.)?(\d{1,4})\.(?!\d)")
OTHERS = {  # part of a name: what only other models have
    "stages.": "stages of different widths, as hierarchical models have",
    "layers.0.blocks.": "stages of different widths, as Swin has",
    "patch_embed.backbone.": "a convolutional network in front of its patches (hybrid)",
    "patch_embed.norm.": "a norm behind its patches",
    "rel_pos": "relative positions",
    "relative_position": "relative positions, as BEiT has",
    "rope.": "rotary positions",
    "attn.q_bias": "queries and values with biases of their own, as BEiT and EVA have",
    "attn.q_proj.": "queries, keys and values in matrices of their own, as EVA-02 has",
    "attn.lambda_": "differential attention",
    "attn.gate.": "gates behind attention",
    "attn.norm.": "further norms inside of its blocks, as BEiT-3 has",
    "mlp.norm.": "further norms inside of its blocks, as BEiT-3 has",
    "mlp.w1": "SwiGLU layers, as DINOv2's giant has",
    "mlp.fc1_g.": "SwiGLU layers, as AIMv2 has",
    ".in_proj.": "attention and MLP side by side",
    ".attns.": "several attentions side by side",
    "blocks_token_only.": "blocks for the class token alone, as CaiT has",
    "attn_pool.": "attention that pools (global_pool 'map'), as SigLIP has",
    "linear_head.": "a head that looks at several blocks, as those of DINOv2 do",
}


def read(weights: Weights, hints: Hints) -> ImportedModel:
    """See `Layout`."""
    told = timm_settings.read_settings(weights)
    drop_pretraining(weights)
    blocks = find_blocks(weights, told)
    parts = {BLOCK.sub("", name) for name in weights.names}  # of any block
    note_assumptions(weights, told, parts)
    dim, _, patch_size, _ = weights.shape("patch_embed.proj.weight", 4)
    if "attn.q_norm.weight" in parts:
        heads = dim // weights.shape(f"{blocks[0]}attn.q_norm.weight", 1)[0]
        heads = confirm_heads(weights, hints, heads)
    else:
        heads = infer_heads(weights, replace(hints, heads=hints.heads or told.heads(dim)), dim, len(blocks))
    state, mean, size = take_tokens(weights, hints, told, dim, patch_size)
    pooled = "fc_norm.weight" in weights
    pre_norm = weights.has_layer("norm_pre")
    state |= weights.take_layer("patch_embed", "patch_embed.proj", bias=None if pre_norm else True)  # none in CLIP
    state |= weights.take_layer("pre_norm", "norm_pre") if pre_norm else {}
    for i, name in enumerate(blocks):
        state |= take_block(weights, name, f"encoder.blocks.{i}.", parts)
    state |= weights.take_layer("norm", "fc_norm" if pooled else "norm")
    known = weights.has_layer("head")
    state |= take_heads(weights, dim, known=known, distilled="distill_token" in state)
    config = infer_config(
        weights,
        state,
        heads=heads,
        image_size=size,
        norm_eps=told.eps(pre_norm=pre_norm),
        norm_at="pooled" if pooled and mean else "tokens",  # to a class token it is all the same
        activation=told.activation,
    )
    classes = timm_settings.read_class_names(weights, told, config.classes) if known else ()
    normalization, resizing = told.normalization(config.channels), told.resizing(config.image_size)
    return ImportedModel(config, state, classes, *normalization, resizing, head=known)


def drop_pretraining(weights: Weights) -> None:
    """Leaves out what only pretraining needs: the token that hides patches (DINOv2, MAE), and MAE's decoder."""
    decoder = [name for name in weights.names if name.startswith("decoder_")]
    if decoder:
        weights.notes.append("without its decoder, which pretraining alone needs")
    weights.drop("mask_token", *decoder)


def find_blocks(weights: Weights, told: Settings) -> list[str]:
    """What stands in front of the names of each block.

    DINOv2 trains in chunks of blocks, which are numbered through: `blocks.1.10.` is the eleventh.

    Raises:
        InputError: it is another model than those of this layout.
    """
    for part, what in OTHERS.items():
        if any(part in f".{name}" for name in weights.names):
            raise unknown_part(weights, what)
    if what := told.find_unknown():
        raise unknown_part(weights, f"{what}, says its config.json")
    patch = weights.shape("patch_embed.proj.weight")
    if len(patch) != 4 or patch[2] != patch[3]:
        raise unknown_part(weights, f"patches that are no squares (patch_embed.proj.weight is {format_shape(patch)})")
    found: dict[int, str] = {}
    for name in weights.names:
        if match := BLOCK.match(name):
            found.setdefault(int(match[1]), match[0])
    names = [found[i] for i in itertools.takewhile(found.__contains__, itertools.count())]
    if not names:
        raise unknown_part(weights, "no blocks.0, which every such ViT has")
    if not any(f"{name}norm1.bias" in weights for name in names):
        raise unknown_part(weights, f"norms without bias (RMS norm; there is no {names[0]}norm1.bias)")
    if "norm.weight" not in weights and "fc_norm.weight" not in weights:
        raise unknown_part(weights, "no norm in front of its head (neither norm.weight nor fc_norm.weight)")
    if weights.shape(f"{names[0]}mlp.fc1.weight", 2)[0] != weights.shape(f"{names[0]}mlp.fc2.weight", 2)[1]:
        raise unknown_part(weights, "SwiGLU layers, as DINOv2's giant has")
    if "dist_token" in weights and "reg_token" in weights:
        raise unknown_part(weights, "registers beside a distillation token")
    return names


def take_block(weights: Weights, theirs: str, ours: str, parts: set[str]) -> dict[str, Tensor]:
    """The weights of one block under our names.

    Args:
        parts: names of tensors in any block; all have the same.
    """
    norms = ["norm1", "norm2", *(name for name in ("attn.q_norm", "attn.k_norm") if f"{name}.weight" in parts)]
    state: dict[str, Tensor] = {}
    for name in (*norms, *LAYERS):
        state |= weights.take_layer(ours + name, theirs + name, bias=name in norms or f"{name}.bias" in parts)
    for pair in (("ls1.gamma", "ls2.gamma"), ("gamma_1", "gamma_2")):  # of timm, of DeiT-III
        for number, name in enumerate(pair, 1) if parts & {*pair} else ():
            state[f"{ours}scale{number}"] = weights.take(theirs + name)
    return state


def note_assumptions(weights: Weights, told: Settings, parts: set[str]) -> None:
    """Notes what names do not show, where other models have the same names and no `config.json` tells them apart."""
    if told.architecture:
        return
    token, pooled = "cls_token" in weights, "fc_norm.weight" in weights
    if token and pooled:
        weights.notes.append("its head looks at the mean over patches, as with fc_norm in MAE and EVA")
    if "norm_pre.weight" in weights or not (token or pooled or "reg_token" in weights):
        weights.notes.append("exact GELU: models of CLIP named quickgelu, and some of SigLIP, look the same")
    if "gamma_1" in parts:
        weights.notes.append("learned positions alone, as in DeiT-III: with rotary ones beside them they look the same")


def take_heads(weights: Weights, dim: int, *, known: bool, distilled: bool) -> dict[str, Tensor]:
    """What follows on pooling: a layer before the head, where there is one, and the heads.

    Args:
        known: whether there are heads; otherwise empty ones stand in for them.
    """
    state: dict[str, Tensor] = {}
    if weights.has_layer("pre_logits.fc"):
        state |= weights.take_layer("representation", "pre_logits.fc")
    for ours, theirs in (("head", "head"), *([("distill_head", "head_dist")] if distilled else [])):
        state |= weights.take_layer(ours, theirs) if known else make_empty_head(state, dim, ours)
    return state


LAYOUT = Layout("timm", "patch_embed.proj.weight", read, timm_export.write, ("head",))
