"""ViT and DeiT of Hugging Face's transformers: weights, and config.json and preprocessor_config.json beside them.

    [vit. | deit.] embeddings. patch_embeddings.projection  cls_token  distillation_token  position_embeddings
                   encoder.layer.N. layernorm_before  attention.attention.{query, key, value}  attention.output.dense
                                    layernorm_after  intermediate.dense  output.dense
                   layernorm
    classifier | cls_classifier  distillation_classifier

Read from what transformers 5.23 writes. Its modules have other names since version 5 (`layers.N.attention.q_proj`),
which files get with `save_original_format=False` alone.

`DeiTForImageClassification` looks at the class token only: its distillation token is a register here.

Legend: D width, N tokens.
"""

from typing import Any

import torch
from torch import Tensor

from baselines.errors import InputError
from compress.importers import huggingface_settings as settings
from compress.importers.base import UNKNOWN, Family, Foreign, Hints
from compress.importers.shapes import configure
from compress.importers.timm import no_head
from compress.importers.to_huggingface import BLOCKS, LAYERS, NORMS, PATCHES, QKV, write
from compress.importers.weights import Weights

NEWER = {  # names of layers of a block in version 5, and of ours
    **{name: f"attention.{name[0]}_proj" for name in QKV},
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
LAYOUTS = {BLOCKS: LAYERS, "layers.{}.": NEWER}


def read(weights: Weights, hints: Hints) -> Foreign:
    """See `Family`."""
    settings.check_kind(weights)
    start = next((name for name in ("vit.", "deit.") if f"{name}{PATCHES}.weight" in weights), "")
    dim, channels, patch_size, _ = weights.shape(f"{start}{PATCHES}.weight", 4)
    blocks, names = layout(weights, start)
    depth = weights.count(f"{blocks}layernorm_before.weight")
    inner, _ = weights.shape(f"{blocks.format(0)}{names['query']}.weight", 2)
    mlp_dim, _ = weights.shape(f"{blocks.format(0)}{names['mlp.fc1']}.weight", 2)
    settings.agree(weights, hidden_size=dim, num_hidden_layers=depth, intermediate_size=mlp_dim)
    settings.agree(weights, num_channels=channels, patch_size=patch_size)
    number, head_dim = settings.heads(weights, hints, dim, depth, inner)
    state, known = head(weights, dim)
    placed, sizes = tokens(weights, hints, start, dim, patch_size, taught="distill_head.weight" in state)
    state |= placed | linear(weights, "patch_embed", start + PATCHES, dim, channels, patch_size, patch_size)
    biased = weights.source.settings.get("qkv_bias", f"{blocks.format(0)}{names['query']}.bias" in weights)
    for i in range(depth):
        ours = f"encoder.blocks.{i}."
        state |= block(weights, blocks.format(i), ours, names, (inner, dim, mlp_dim), biased=bool(biased))
    state |= linear(weights, "norm", f"{start}layernorm", dim)
    weights.drop(f"{start}embeddings.mask_token", f"{start}pooler.dense.weight", f"{start}pooler.dense.bias")
    config = configure(
        weights,
        channels=channels,
        patch_size=patch_size,
        dim=dim,
        depth=depth,
        heads=number,
        head_dim=head_dim,
        mlp_dim=mlp_dim,
        classes=len(state["head.weight"]),
        **settings.numerics(weights),
        **sizes,
    )
    mean, std = settings.normalisation(weights, channels)
    classes = settings.classes(weights, config.classes) if known else ()
    return Foreign(config, state, classes, mean, std, head=known)


def layout(weights: Weights, start: str) -> tuple[str, dict[str, str]]:
    """What stands in front of the weights of a block, with {} for its number, and the names of its layers.

    Raises:
        InputError: there are no blocks of a ViT.
    """
    for blocks, names in LAYOUTS.items():
        if f"{start}{blocks.format(0)}layernorm_before.weight" in weights:
            return start + blocks, names
    raise InputError(f"{weights.path} begins like a ViT of Hugging Face, but does not have its blocks; {UNKNOWN}")


def tokens(
    weights: Weights, hints: Hints, start: str, dim: int, patch_size: int, *, taught: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tokens of the prefix and position embeddings (1, N, D), and the settings they entail.

    Args:
        taught: whether a head looks at the distillation token.
    """
    names = {name: f"{start}embeddings.{name}" for name in ("cls_token", "distillation_token", "position_embeddings")}
    deit = taught or names["distillation_token"] in weights or weights.source.settings.get("model_type") == "deit"
    _, count, _ = weights.shape(names["position_embeddings"], 3)
    state = {
        "cls_token": weights.take(names["cls_token"], 1, 1, dim),
        "pos_embed": weights.take(names["position_embeddings"], 1, count, dim),
    }
    if deit:
        state["distill_token" if taught else "registers"] = weights.take(names["distillation_token"], 1, 1, dim)
    size = settings.image_size(weights, hints, count - 1 - deit, patch_size)
    return state, {"image_size": size, "distill_token": taught, "registers": int(deit and not taught)}


def block(
    weights: Weights, theirs: str, ours: str, names: dict[str, str], widths: tuple[int, int, int], *, biased: bool
) -> dict[str, Tensor]:
    """The weights of one block under our names.

    Args:
        names: of its layers, one of LAYOUTS.
        widths: of queries, tokens and the hidden layer.
        biased: whether queries, keys and values have a bias.
    """
    inner, dim, mlp_dim = widths
    state: dict[str, Tensor] = {}
    for name, foreign in NORMS.items():
        state |= linear(weights, ours + name, theirs + foreign, dim)
    qkv = [theirs + names[name] for name in QKV]
    biases = [weights.take(f"{name}.bias", inner) if biased else torch.zeros(inner) for name in qkv]
    state[f"{ours}attn.qkv.weight"] = torch.cat([weights.take(f"{name}.weight", inner, dim) for name in qkv])
    state[f"{ours}attn.qkv.bias"] = torch.cat(biases)
    for name, shape in {"attn.proj": (dim, inner), "mlp.fc1": (mlp_dim, dim), "mlp.fc2": (dim, mlp_dim)}.items():
        state |= linear(weights, ours + name, theirs + names[name], *shape)
    return state


def head(weights: Weights, dim: int) -> tuple[dict[str, Tensor], bool]:
    """The heads, and whether there are any.

    Raises:
        InputError: config.json promises one that is not there.
    """
    promised = str(weights.source.settings.get("architectures"))
    taught = "cls_classifier.weight" in weights or "ForImageClassificationWithTeacher" in promised
    if not taught and "classifier.weight" not in weights and "ForImageClassification" not in promised:
        weights.drop("decoder.0.weight", "decoder.0.bias")  # with which it was pretrained
        return no_head(dim), False
    name = "cls_classifier" if taught else "classifier"
    classes, _ = weights.shape(f"{name}.weight", 2)
    state = linear(weights, "head", name, classes, dim)
    if taught:
        state |= linear(weights, "distill_head", "distillation_classifier", classes, dim)
    return state, True


def linear(weights: Weights, ours: str, theirs: str, *shape: int) -> dict[str, Tensor]:
    """Weight and bias, neither of which may lack, of a layer or norm under our name."""
    return {
        f"{ours}.weight": weights.take(f"{theirs}.weight", *shape),
        f"{ours}.bias": weights.take(f"{theirs}.bias", shape[0]),
    }


FAMILY = Family("huggingface", (f"vit.{PATCHES}.weight", f"deit.{PATCHES}.weight", f"{PATCHES}.weight"), read, write)
