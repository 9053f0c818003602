"""timm's `VisionTransformer`, and what shares its names: DeiT, DeiT-III, DINO, DINOv2, MAE, as their authors left them.

    patch_embed.proj  cls_token  dist_token  reg_token | register_tokens  pos_embed  norm_pre
    blocks.N. norm1  attn.qkv  attn.q_norm  attn.k_norm  attn.proj  ls1.gamma | gamma_1
              norm2  mlp.fc1  mlp.fc2  ls2.gamma | gamma_2
    norm | fc_norm  pre_logits.fc  head  head_dist

Read from the names and shapes that timm 1.0 writes. What they do not show is taken from config.json where there is one
(`timm_settings.py`). Else the head looks at the mean where there is `fc_norm` or no class token; GELU is exact, though
models of CLIP named quickgelu, and some of SigLIP, look the same; positions are learned alone; norms stand before
attention and MLP, with an epsilon of 1e-6, or of 1e-5 where one stands in front of all blocks (CLIP).

Legend: D width, N tokens.
"""

import itertools
import re
from dataclasses import replace

import torch
from torch import Tensor

from baselines.errors import InputError
from compress.importers import timm_settings, to_timm
from compress.importers.base import Family, Foreign, Hints
from compress.importers.shapes import configure, heads
from compress.importers.timm_settings import Settings, strange
from compress.importers.timm_tokens import tokens
from compress.importers.weights import Weights

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


def read(weights: Weights, hints: Hints) -> Foreign:
    """See `Family`."""
    told = timm_settings.read(weights)
    forget(weights)
    names = recognised(weights, told)
    parts = {BLOCK.sub("", name.removeprefix(weights.prefix)) for name in weights.source.tensors}  # of any block
    assume(weights, told, parts)
    dim, channels, patch_size, _ = weights.shape("patch_embed.proj.weight", 4)
    mlp_dim, _ = weights.shape(f"{names[0]}mlp.fc1.weight", 2)
    qk_norm = any(part.startswith("attn.q_norm.") for part in parts)
    if qk_norm:
        number = normed_heads(weights, hints, names[0], dim)
    else:
        number = heads(weights, replace(hints, heads=hints.heads or told.heads(dim)), dim, len(names))
    state, sizes = tokens(weights, hints, told, dim, patch_size)
    mean, pooled = sizes["pool"] == "mean", "fc_norm.weight" in weights
    pre_norm = holds(weights, "norm_pre")
    if pre_norm:  # patches have no bias then
        state |= weights.linear("patch_embed", "patch_embed.proj") | whole(weights, "pre_norm", "norm_pre", dim)
    else:
        state |= whole(weights, "patch_embed", "patch_embed.proj")
    for i, name in enumerate(names):
        state |= block(weights, name, f"encoder.blocks.{i}.", parts, dim)
    state |= whole(weights, "norm", "fc_norm" if pooled else "norm", dim)
    answers, represented, known = head(weights, dim, distilled="distill_token" in state)
    config = configure(
        weights,
        channels=channels,
        patch_size=patch_size,
        dim=dim,
        depth=len(names),
        heads=number,
        mlp_dim=mlp_dim,
        classes=len(answers["head.weight"]),
        norm_eps=told.eps(pre_norm=pre_norm),
        norm_at="pooled" if pooled and mean else "tokens",  # to a class token it is all the same
        pre_norm=pre_norm,
        activation=told.activation,
        representation=represented,
        qk_norm=qk_norm,
        layer_scale=1.0 if "encoder.blocks.0.scale1" in state else 0.0,
        **sizes,
    )
    classes = timm_settings.class_names(weights, told, config.classes) if known else ()
    return Foreign(config, state | answers, classes, *told.normalisation(channels), head=known)


def forget(weights: Weights) -> None:
    """Leaves out what only pretraining needs: the token that hides patches (DINOv2, MAE), and MAE's decoder."""
    names = [name.removeprefix(weights.prefix) for name in weights.source.tensors]
    decoder = [name for name in names if name.startswith("decoder_")]
    if decoder:
        weights.notes.append("without its decoder, which pretraining alone needs")
    weights.drop("mask_token", *decoder)


def recognised(weights: Weights, told: Settings) -> list[str]:
    """What stands in front of the names of each block.

    DINOv2 trains in chunks of blocks, which are numbered through: `blocks.1.10.` is the eleventh.

    Raises:
        InputError: it is another model than those of this layout.
    """
    present = [name.removeprefix(weights.prefix) for name in weights.source.tensors if name.startswith(weights.prefix)]
    for part, what in OTHERS.items():
        if any(part in f".{name}" for name in present):
            raise strange(weights, what)
    if what := told.strange():
        raise strange(weights, f"{what}, says its config.json")
    patch = weights.shape("patch_embed.proj.weight")
    if len(patch) != 4 or patch[2] != patch[3]:
        raise strange(
            weights, f"patches that are no squares (patch_embed.proj.weight is {' x '.join(map(str, patch))})"
        )
    found: dict[int, str] = {}
    for name in present:
        if match := BLOCK.match(name):
            found.setdefault(int(match[1]), match[0])
    names = [found[i] for i in itertools.takewhile(found.__contains__, itertools.count())]
    if not names:
        raise strange(weights, "no blocks.0, which every such ViT has")
    if not any(f"{name}norm1.bias" in weights for name in names):
        raise strange(weights, f"norms without bias (RMS norm; there is no {names[0]}norm1.bias)")
    if "norm.weight" not in weights and "fc_norm.weight" not in weights:
        raise strange(weights, "no norm in front of its head (neither norm.weight nor fc_norm.weight)")
    if weights.shape(f"{names[0]}mlp.fc1.weight", 2)[0] != weights.shape(f"{names[0]}mlp.fc2.weight", 2)[1]:
        raise strange(weights, "SwiGLU layers, as DINOv2's giant has")
    if "dist_token" in weights and "reg_token" in weights:
        raise strange(weights, "registers beside a distillation token")
    return names


def normed_heads(weights: Weights, hints: Hints, block: str, dim: int) -> int:
    """Number of heads, as norms of queries tell it; raises InputError where a person says another."""
    found = dim // weights.shape(f"{block}attn.q_norm.weight", 1)[0]
    if hints.heads not in (None, found):
        raise InputError(f"{weights.path} has {found} heads in each block; leave out --heads {hints.heads}")
    return found


def block(weights: Weights, theirs: str, ours: str, parts: set[str], dim: int) -> dict[str, Tensor]:
    """The weights of one block under our names.

    Args:
        parts: names of tensors in any block; all have the same.
    """
    normed = ("attn.q_norm", "attn.k_norm") if "attn.k_norm.weight" in parts else ()
    state: dict[str, Tensor] = {}
    for name in ("norm1", "norm2", *normed, *LAYERS):
        biased = name not in LAYERS or f"{name}.bias" in parts
        state |= (whole if biased else Weights.linear)(weights, ours + name, theirs + name)
    for pair in (("ls1.gamma", "ls2.gamma"), ("gamma_1", "gamma_2")):  # of timm, of DeiT-III
        for number, name in enumerate(pair, 1) if parts & {*pair} else ():
            state[f"{ours}scale{number}"] = weights.take(theirs + name, dim)
    return state


def assume(weights: Weights, told: Settings, parts: set[str]) -> None:
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


def whole(weights: Weights, ours: str, theirs: str, *shape: int) -> dict[str, Tensor]:
    """As `Weights.linear`, of a layer or norm that has a bias: where there is none, that is an error."""
    weights.shape(f"{theirs}.bias", 1)
    return weights.linear(ours, theirs, *shape)


def holds(weights: Weights, layer: str) -> bool:
    """Whether there is a layer, or at least a part of it."""
    return f"{layer}.weight" in weights or f"{layer}.bias" in weights


def head(weights: Weights, dim: int, *, distilled: bool) -> tuple[dict[str, Tensor], int, bool]:
    """What follows on pooling, the width of the layer before the head (0: none), and whether there is a head."""
    represented = weights.shape("pre_logits.fc.weight", 2)[0] if holds(weights, "pre_logits.fc") else 0
    state = whole(weights, "representation", "pre_logits.fc") if represented else {}
    known = holds(weights, "head")
    for ours, theirs in (("head", "head"), *([("distill_head", "head_dist")] if distilled else [])):
        shape = weights.shape(f"{theirs}.weight", 2) if known else ()
        state |= whole(weights, ours, theirs, *shape) if known else no_head(represented or dim, ours)
    return state, represented, known


def no_head(dim: int, name: str = "head") -> dict[str, Tensor]:
    """A head for a model that knows no classes: whatever takes it up begins with its own."""
    return {f"{name}.weight": torch.zeros(2, dim), f"{name}.bias": torch.zeros(2)}


FAMILY = Family("timm", "patch_embed.proj.weight", read, to_timm.write)
