"""torchvision's `VisionTransformer` (vit_b_16 and its like).

    class_token  conv_proj  encoder.pos_embedding
    encoder.layers.encoder_layer_N. ln_1  self_attention.in_proj_{weight, bias}  self_attention.out_proj
                                    ln_2  mlp.0 | mlp.linear_1  mlp.3 | mlp.linear_2
    encoder.ln  heads.pre_logits  heads.head

Read from the names and shapes that torchvision 0.12 (`linear_1`) to 0.29 write, and from those that fine-tuning leaves
which puts a Linear in place of all of `heads`. Norms have an epsilon of 1e-6.

On the way back, factors of branches (LayerScale) are multiplied into the layers in front of them.
"""

import itertools
from dataclasses import replace
from typing import Any

from baselines.errors import InputError
from compress.importers.base import UNKNOWN, ExportedModel, Hints, ImportedModel, Layout
from compress.importers.exporting import check_support, format_call, format_layer_norm
from compress.importers.geometry import infer_config, infer_heads, infer_image_size, make_empty_head
from compress.importers.preprocessing import read_torchvision
from compress.importers.weights import Weights

EPS = 1e-6
LAYER = "encoder.layers.encoder_layer_{}."
MLPS = ({"mlp.fc1": "mlp.0", "mlp.fc2": "mlp.3"}, {"mlp.fc1": "mlp.linear_1", "mlp.fc2": "mlp.linear_2"})  # new, old
PARTS = {"norm1": "ln_1", "attn.proj": "self_attention.out_proj", "norm2": "ln_2"}  # ours: theirs
QKV = {kind: f"self_attention.in_proj_{kind}" for kind in ("weight", "bias")}
HEADS = ("heads.head", "heads", "heads.0")


def read(weights: Weights, hints: Hints) -> ImportedModel:
    """See `Layout`."""
    if "conv_proj.conv_last.weight" in weights:
        raise InputError(
            f"{weights.path} has patches made by convolutions and batch norms (conv_stem_configs); {UNKNOWN}"
        )
    dim, _, patch_size, width = weights.shape("conv_proj.weight", 4)
    if patch_size != width:
        raise InputError(
            f"{weights.path} has patches of {patch_size} x {width} pixels, which are no squares; {UNKNOWN}"
        )
    mlp = MLPS[f"{LAYER.format(0)}mlp.linear_1.weight" in weights]
    depth = max(weights.count(f"{LAYER}{norm}.weight") for norm in ("ln_1", "ln_2"))  # one that is lost is named below
    heads = infer_heads(weights, hints, dim, depth)
    names = map_names(depth, mlp)
    if weights.has_layer("heads.pre_logits"):
        names["representation"] = "heads.pre_logits"
    name = next(filter(weights.has_layer, HEADS), None)
    if name is not None:
        names["head"] = name
    state = {
        "cls_token": weights.take("class_token", 1, 1, dim),
        "pos_embed": weights.take_tokens("encoder.pos_embedding", dim),
        **weights.take_layers(names),
    }
    for i, kind in itertools.product(range(depth), QKV):
        state[f"encoder.blocks.{i}.attn.qkv.{kind}"] = weights.take(LAYER.format(i) + QKV[kind])
    if name is None:
        state |= make_empty_head(state, dim)
    size = infer_image_size(weights, hints, state["pos_embed"].shape[1] - 1, patch_size)
    config = infer_config(weights, state, heads=heads, image_size=size, norm_eps=EPS)
    model = ImportedModel(config, state, head=name is not None)
    published = read_torchvision(weights.path.name)
    if not published or config.image_size != published.pop("image_size") or config.classes != len(published["classes"]):
        return model
    weights.notes.append("classes and preprocessing are those of the weights that torchvision publishes by this name")
    return replace(model, **published)


def map_names(depth: int, mlp: dict[str, str]) -> dict[str, str]:
    """Our names of layers outside of heads, but queries, keys and values: theirs.

    Args:
        mlp: one of MLPS.
    """
    names = {"patch_embed": "conv_proj", "norm": "encoder.ln"}
    for i in range(depth):
        names |= {f"encoder.blocks.{i}.{ours}": LAYER.format(i) + theirs for ours, theirs in {**PARTS, **mlp}.items()}
    return names


def write(foreign: ImportedModel) -> ExportedModel:
    """See `Layout`."""
    config, state = foreign.config, dict(foreign.state)
    height, width = config.image_size
    faults = {
        "a mean over patches (pool 'mean')": config.pool == "mean",
        "registers": config.registers,
        "a distillation token": config.distill_token,
        "a norm in front of the first block (pre_norm)": config.pre_norm,
        "norms of queries and keys (qk_norm)": config.qk_norm,
        f"activation {config.activation!r}": config.activation != "gelu",
        f"images that are no squares ({height}x{width})": height != width,
        f"images of {config.channels} channels": config.channels != 3,
        "a head that knows no classes": not foreign.head,
    }
    check_support("torchvision", config, faults)
    tensors = {"class_token": state["cls_token"], "encoder.pos_embedding": state["pos_embed"]}
    names = map_names(config.depth, MLPS[0]) | {"head": "heads.head"}
    if config.representation:
        names["representation"] = "heads.pre_logits"
    for i in range(config.depth):
        ours = f"encoder.blocks.{i}."
        for scale, layer in (("scale1", "attn.proj"), ("scale2", "mlp.fc2")) if config.layer_scale else ():
            factor = state[ours + scale]
            state[f"{ours}{layer}.weight"] = factor[:, None] * state[f"{ours}{layer}.weight"]
            state[f"{ours}{layer}.bias"] = factor * state[f"{ours}{layer}.bias"]
        for kind, theirs in QKV.items():
            tensors[LAYER.format(i) + theirs] = state[f"{ours}attn.qkv.{kind}"]
    tensors |= {
        f"{theirs}.{kind}": state[f"{ours}.{kind}"] for ours, theirs in names.items() for kind in ("weight", "bias")
    }
    settings: dict[str, Any] = {
        "image_size": height,
        "patch_size": config.patch_size,
        "num_layers": config.depth,
        "num_heads": config.heads,
        "hidden_dim": config.dim,
        "mlp_dim": config.mlp_dim,
        "num_classes": config.classes,
    }
    if config.representation:
        settings["representation_size"] = config.representation
    if config.norm_eps != EPS:
        settings["norm_layer"] = format_layer_norm(config.norm_eps)
    return ExportedModel(tensors, format_call("torchvision.models.VisionTransformer", **settings))


LAYOUT = Layout("torchvision", "encoder.pos_embedding", read, write, HEADS)
