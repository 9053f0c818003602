"""The npz files of google-research/vision_transformer (ViT-B_16.npz, AugReg) and of big_vision.

    embedding  cls  Transformer/posembed_input/pos_embedding | pos_embedding
    Transformer/encoderblock_N/ LayerNorm_0  MultiHeadDotProductAttention_1/{query, key, value, out}
                                LayerNorm_2  MlpBlock_3/{Dense_0, Dense_1}
    Transformer/encoder_norm  pre_logits  head

Parts of a block are numbered through, or each kind from 0 (LayerNorm_1, MlpBlock_0), as newer Flax does. A class token
has a position, unless positions are big_vision's `pos_embedding`; without one the head looks at the mean over patches
(`classifier='gap'`). Norms have an epsilon of 1e-6, the default of Flax, and GELU is its approximation by tanh
(`nn.gelu` in `vit_jax/models_vit.py`). Images are fed in [-1, 1] (`vit_jax/input_pipeline.py`).

Legend: C channels, D width, H heads, K width of a head, N tokens, P patch size.
"""

from typing import Any

import torch
from torch import Tensor

from baselines.errors import InputError
from compress.importers.base import UNKNOWN, Family, Foreign, Hints
from compress.importers.shapes import configure, image_size
from compress.importers.timm import no_head
from compress.importers.weights import Weights

EPS = 1e-6
ENCODER = "Transformer/"
OTHERS = {  # what only other models of theirs have
    "conv_root/kernel": "a hybrid, whose patches are cut from the output of convolutions",
    "stem/kernel": "an MLP-Mixer, which has no attention",
    "MAPHead_0/probe": "a ViT that pools by attention (MAPHead)",
    f"{ENCODER}encoderblock/LayerNorm_0/scale": "a ViT with the weights of all blocks in one array (scan)",
}
PARTS = (  # attention, second norm and MLP of a block
    ("MultiHeadDotProductAttention_1/", "LayerNorm_2", "MlpBlock_3/"),
    ("MultiHeadDotProductAttention_0/", "LayerNorm_1", "MlpBlock_0/"),
)


def read(weights: Weights, hints: Hints) -> Foreign:
    """See `Family`."""
    for name, kind in OTHERS.items():
        if name in weights:
            raise InputError(f"{weights.path} is {kind}; {UNKNOWN}")
    patch_size, _, channels, dim = weights.shape("embedding/kernel", 4)
    depth = weights.count(f"{ENCODER}encoderblock_{{}}/LayerNorm_0/scale")
    first = f"{ENCODER}encoderblock_0/"
    parts = next((each for each in PARTS if f"{first}{each[0]}query/kernel" in weights), PARTS[0])
    _, heads, width = weights.shape(f"{first}{parts[0]}query/kernel", 3)
    _, mlp_dim = weights.shape(f"{first}{parts[2]}Dense_0/kernel", 2)
    state, sizes = tokens(weights, hints, dim, patch_size)
    kernel = weights.take("embedding/kernel", patch_size, patch_size, channels, dim)
    state["patch_embed.weight"] = kernel.permute(3, 2, 0, 1).contiguous()  # (P, P, C, D) -> (D, C, P, P)
    state["patch_embed.bias"] = weights.take("embedding/bias", dim)
    for i in range(depth):
        names = f"{ENCODER}encoderblock_{i}/", f"encoder.blocks.{i}."
        state |= block(weights, *names, parts, (dim, heads, width, mlp_dim))
    state |= norm(weights, "norm", f"{ENCODER}encoder_norm", dim)
    represented = weights.shape("pre_logits/kernel", 2)[1] if "pre_logits/kernel" in weights else 0
    if represented:
        state |= dense(weights, "representation", "pre_logits", dim, represented)
    known = "head/kernel" in weights
    if known:
        state |= dense(weights, "head", "head", represented or dim, weights.shape("head/kernel", 2)[1])
    else:
        state |= no_head(represented or dim)
    weights.notes.append(
        "images in [-1, 1], as all models of google-research/vision_transformer take them (--normalise)"
    )
    config = configure(
        weights,
        channels=channels,
        patch_size=patch_size,
        dim=dim,
        depth=depth,
        heads=heads,
        head_dim=0 if heads * width == dim else width,
        mlp_dim=mlp_dim,
        classes=len(state["head.weight"]),
        norm_eps=EPS,
        activation="gelu_tanh",
        representation=represented,
        **sizes,
    )
    half = (0.5,) * channels
    return Foreign(config, state, mean=half, std=half, head=known)


def tokens(weights: Weights, hints: Hints, dim: int, patch_size: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Class token and position embeddings (1, N, D), and the settings they entail."""
    cls = weights.get("cls", 1, 1, dim)
    name = f"{ENCODER}posembed_input/pos_embedding"
    free = cls is not None and name not in weights and "pos_embedding" in weights
    if name not in weights and "pos_embedding" in weights:
        name = "pos_embedding"
    _, count, _ = weights.shape(name, 3)
    places = weights.take(name, 1, count, dim)
    if free:
        places = torch.cat([torch.zeros(1, 1, dim), places], 1)
    size = image_size(weights, hints, places.shape[1] - (cls is not None), patch_size)
    state = {"pos_embed": places} if cls is None else {"pos_embed": places, "cls_token": cls}
    return state, {"image_size": size, "pool": "mean" if cls is None else "cls"}


def block(
    weights: Weights, theirs: str, ours: str, parts: tuple[str, str, str], sizes: tuple[int, int, int, int]
) -> dict[str, Tensor]:
    """The weights of one block under our names.

    Args:
        parts: one of PARTS.
        sizes: D, H, K and the width of the hidden layer.
    """
    dim, heads, width, mlp_dim = sizes
    attention, second, mlp = (theirs + part for part in parts)
    qkv = [f"{attention}{name}" for name in ("query", "key", "value")]
    kernels = [weights.take(f"{name}/kernel", dim, heads, width).flatten(1).T for name in qkv]  # (D, H, K) -> (HK, D)
    biases = [weights.take(f"{name}/bias", heads, width).flatten() for name in qkv]
    return {
        **norm(weights, f"{ours}norm1", f"{theirs}LayerNorm_0", dim),
        f"{ours}attn.qkv.weight": torch.cat(kernels),
        f"{ours}attn.qkv.bias": torch.cat(biases),
        f"{ours}attn.proj.weight": weights.take(f"{attention}out/kernel", heads, width, dim)
        .flatten(0, 1)
        .T.contiguous(),
        f"{ours}attn.proj.bias": weights.take(f"{attention}out/bias", dim),
        **norm(weights, f"{ours}norm2", second, dim),
        **dense(weights, f"{ours}mlp.fc1", f"{mlp}Dense_0", dim, mlp_dim),
        **dense(weights, f"{ours}mlp.fc2", f"{mlp}Dense_1", mlp_dim, dim),
    }


def dense(weights: Weights, ours: str, theirs: str, inputs: int, outputs: int) -> dict[str, Tensor]:
    """Weight and bias of a layer under our name; theirs is (inputs, outputs)."""
    kernel = weights.take(f"{theirs}/kernel", inputs, outputs)
    return {f"{ours}.weight": kernel.T.contiguous(), f"{ours}.bias": weights.take(f"{theirs}/bias", outputs)}


def norm(weights: Weights, ours: str, theirs: str, dim: int) -> dict[str, Tensor]:
    """Gain and bias of a norm under our name."""
    gain, bias = (weights.take(f"{theirs}/{name}", dim) for name in ("scale", "bias"))
    return {f"{ours}.weight": gain, f"{ours}.bias": bias}


FAMILY = Family("google-research", ("embedding/kernel", "stem/kernel"), read)
