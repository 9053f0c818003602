"""A model of ours as timm's `VisionTransformer`, or its `VisionTransformerDistilled` with a distillation token.

Registers that are not pooled stay registers. Where timm has no bias (patches in front of a norm, as in CLIP), the bias
is added to the positions.

Legend: D width, N tokens.
"""

from typing import Any

from torch import Tensor

from baselines.vit import ViTConfig
from compress.importers.base import ExportedModel, ImportedModel
from compress.importers.exporting import check_support, format_call, format_layer_norm

BLOCKS = "encoder.blocks."
NAMES = {  # ours: theirs
    "patch_embed": "patch_embed.proj",
    "registers": "reg_token",
    "distill_token": "dist_token",
    "pre_norm": "norm_pre",
    "scale1": "ls1.gamma",
    "scale2": "ls2.gamma",
    "distill_head": "head_dist",
}
EPS = 1e-6  # timm's own


def write(foreign: ImportedModel) -> ExportedModel:
    """See `Layout`."""
    config = foreign.config
    faults = {
        "a layer between pooling and head (representation)": config.representation,
        "registers beside a distillation token": config.registers and config.distill_token,
    }
    check_support("timm", config, faults)
    names = {**NAMES, "norm": "fc_norm"} if config.norm_at == "pooled" else NAMES
    tensors: dict[str, Tensor] = {}
    for name, value in foreign.state.items():
        first, _, rest = name.removeprefix(BLOCKS).partition(".")
        if name.startswith(BLOCKS):
            tensors[f"blocks.{first}.{NAMES.get(rest, rest)}"] = value
        elif foreign.head or first not in ("head", "distill_head"):
            tensors[f"{names.get(first, first)}.{rest}".rstrip(".")] = value
    if config.pre_norm:
        places = tensors["pos_embed"].clone()
        places[:, config.prefix_tokens :] += tensors.pop("patch_embed.proj.bias")
        tensors["pos_embed"] = places
    return ExportedModel(tensors, format_usage(config, config.classes if foreign.head else 0))


def format_usage(config: ViTConfig, classes: int) -> str:
    """Python that makes the model; settings that timm has of its own accord are left out."""
    ratio = config.mlp_dim / config.dim
    settings: dict[str, Any] = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "in_chans": config.channels,
        "num_classes": classes,
        "embed_dim": config.dim,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": ratio if int(config.dim * ratio) == config.mlp_dim else (config.mlp_dim + 0.5) / config.dim,
    }
    if config.pool == "mean":
        settings |= {"class_token": False, "global_pool": "avg", "fc_norm": config.norm_at == "pooled"}
    further = {
        "reg_tokens": config.registers,
        "pre_norm": config.pre_norm,
        "qk_norm": config.qk_norm,
        "init_values": config.layer_scale,
    }
    settings |= {name: value for name, value in further.items() if value}
    if config.activation != "gelu":
        settings["act_layer"] = config.activation
    if config.norm_eps != EPS:
        settings["norm_layer"] = format_layer_norm(config.norm_eps)
    name = "deit_base_distilled_patch16_224" if config.distill_token else "vit_base_patch16_224"
    return format_call("timm.create_model", name, **settings)
