"""A model of ours as `ViTForImageClassification` of Hugging Face's transformers, or as a DeiT: that has a second token.

Weights get the names that files have, which versions 4 and 5 read alike; see `huggingface.py`. A single register is the
distillation token of `DeiTForImageClassification`, which nobody looks at in the end either. What has no head is a
`ViTModel` or `DeiTModel`.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from baselines.resizing import STRETCHED
from compress.importers.base import ExportedModel, ImportedModel
from compress.importers.exporting import check_support
from compress.importers.huggingface_settings import PIXELS, make_label_names
from compress.importers.preprocessing import write_huggingface

PATCHES = "embeddings.patch_embeddings.projection"
BLOCKS = "encoder.layer.{}."  # what stands in front of the weights of a block
NORMS = {"norm1": "layernorm_before", "norm2": "layernorm_after"}  # ours: theirs
TOKENS = {
    "cls_token": "embeddings.cls_token",
    "distill_token": "embeddings.distillation_token",
    "registers": "embeddings.distillation_token",
    "pos_embed": "embeddings.position_embeddings",
}
DISTILL_HEAD = "distillation_classifier"
QKV = ("query", "key", "value")
LAYERS = {
    **{name: f"attention.attention.{name}" for name in QKV},
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def write(model: ImportedModel) -> ExportedModel:
    """See `Layout`."""
    config = model.config
    faults = {
        "pooling by a mean": config.pool == "mean",
        "a norm before the first block": config.pre_norm,
        "a layer between pooling and head (representation)": config.representation,
        "two or more registers": config.registers > 1,
        "registers beside a distillation token": config.registers and config.distill_token,
        "layer scale": config.layer_scale,
        "normalized queries and keys": config.qk_norm,
    }
    check_support("Hugging Face", config, faults)
    kind = "deit" if config.distill_token or config.registers else "vit"
    start = f"{kind}." if model.head else ""
    names = map_layers(config.depth, start, BLOCKS, LAYERS) | {ours: start + theirs for ours, theirs in TOKENS.items()}
    names |= {"head": "cls_classifier" if config.distill_token else "classifier", "distill_head": DISTILL_HEAD}
    tensors: dict[str, Tensor] = {}
    for name, value in model.state.items():
        layer, _, last = name.rpartition(".")
        if layer.endswith("attn.qkv"):
            parts = zip(QKV, value.chunk(3), strict=True)
            tensors |= {f"{names[layer.replace('attn.qkv', each)]}.{last}": part.clone() for each, part in parts}
        elif model.head or layer not in ("head", "distill_head"):
            tensors[f"{names[layer]}.{last}" if layer else names[name]] = value
    usage = "AutoModelForImageClassification.from_pretrained(PATH)"
    usage = usage if model.head else "AutoModel.from_pretrained(PATH, add_pooling_layer=False)"
    return ExportedModel(tensors, f"transformers.{usage}", make_config(model, kind), make_preprocessor_config(model))


def map_layers(depth: int, start: str, blocks: str, layers: Mapping[str, str]) -> dict[str, str]:
    """Our names of layers outside of heads: theirs. Queries, keys and values are one layer each.

    Args:
        start: in front of all of theirs.
        blocks: in front of those of a block, with {} for its number.
        layers: of a block, ours: theirs.
    """
    names = {"patch_embed": f"{start}{PATCHES}", "norm": f"{start}layernorm"}
    for i in range(depth):
        theirs = start + blocks.format(i)
        names |= {f"encoder.blocks.{i}.{name}": theirs + other for name, other in {**NORMS, **layers}.items()}
    return names


def get_architecture(model: ImportedModel, kind: str) -> str:
    """The class of theirs that takes the weights."""
    name = "DeiT" if kind == "deit" else "ViT"
    if not model.head:
        return f"{name}Model"
    return f"{name}ForImageClassification{'WithTeacher' if model.config.distill_token else ''}"


def make_config(model: ImportedModel, kind: str) -> dict[str, Any]:
    """config.json.

    Args:
        kind: vit or deit.
    """
    config = model.config
    names = model.classes or make_label_names(config.classes)
    numbers = {str(i): name for i, name in enumerate(names)}
    labels = {"id2label": numbers, "label2id": {name: i for i, name in enumerate(names)}}
    return {
        "architectures": [get_architecture(model, kind)],
        "model_type": kind,
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": "gelu" if config.activation == "gelu" else "gelu_pytorch_tanh",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": config.norm_eps,
        "image_size": config.image_size[0] if len({*config.image_size}) == 1 else list(config.image_size),
        "patch_size": config.patch_size,
        "num_channels": config.channels,
        "qkv_bias": True,
        "encoder_stride": config.patch_size,
        **(labels if model.head else {}),
    }


def make_preprocessor_config(model: ImportedModel) -> dict[str, Any]:
    """preprocessor_config.json; none where it is not known how images are normalized."""
    if not model.mean:
        return {}
    return {
        **write_huggingface(model.resizing or STRETCHED, model.config.image_size),
        "do_rescale": True,
        "rescale_factor": 1 / PIXELS,
        "do_normalize": True,
        "image_mean": list(model.mean),
        "image_std": list(model.std),
    }
