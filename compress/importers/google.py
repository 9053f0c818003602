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

import math

import torch
from torch import Tensor

from baselines.errors import InputError
from baselines.resizing import STRETCHED
from compress.importers.base import UNKNOWN, Hints, ImportedModel, Layout
from compress.importers.geometry import infer_config, infer_image_size, make_empty_head
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


def read(weights: Weights, hints: Hints) -> ImportedModel:
    """See `Layout`."""
    for name, kind in OTHERS.items():
        if name in weights:
            raise InputError(f"{weights.path} is {kind}; {UNKNOWN}")
    patch_size, _, channels, dim = weights.shape("embedding/kernel", 4)
    depth = weights.count(f"{ENCODER}encoderblock_{{}}/LayerNorm_0/scale")
    first = f"{ENCODER}encoderblock_0/"
    parts = next((each for each in PARTS if f"{first}{each[0]}query/kernel" in weights), PARTS[0])
    _, heads, width = weights.shape(f"{first}{parts[0]}query/kernel", 3)
    _, mlp_dim = weights.shape(f"{first}{parts[2]}Dense_0/kernel", 2)
    state = take_tokens(weights, dim)
    size = infer_image_size(weights, hints, state["pos_embed"].shape[1] - ("cls_token" in state), patch_size)
    kernel = weights.take("embedding/kernel", patch_size, patch_size, channels, dim)
    state["patch_embed.weight"] = kernel.permute(3, 2, 0, 1).contiguous()  # (P, P, C, D) -> (D, C, P, P)
    state["patch_embed.bias"] = weights.take("embedding/bias", dim)
    for i in range(depth):
        names = f"{ENCODER}encoderblock_{i}/", f"encoder.blocks.{i}."
        state |= take_block(weights, *names, parts, (dim, heads, width, mlp_dim))
    state |= take_norm(weights, "norm", f"{ENCODER}encoder_norm", dim)
    for ours, theirs in (("representation", "pre_logits"), ("head", "head")):
        if f"{theirs}/kernel" in weights:
            inputs = len(state.get("representation.bias", ())) or dim
            state |= take_dense(weights, ours, theirs, (inputs,), weights.shape(f"{theirs}/kernel", 2)[1:])
    known = "head.weight" in state
    state |= {} if known else make_empty_head(state, dim)
    weights.notes.append(
        "images in [-1, 1], as all models of google-research/vision_transformer take them (--normalize)"
    )
    kinds = {"norm_eps": EPS, "activation": "gelu_tanh"}
    half = (0.5,) * channels
    config = infer_config(weights, state, heads=heads, image_size=size, **kinds)
    return ImportedModel(config, state, mean=half, std=half, resizing=STRETCHED, head=known)


def take_tokens(weights: Weights, dim: int) -> dict[str, Tensor]:
    """Class token, where there is one, and position embeddings (1, N, D)."""
    cls = weights.get("cls", 1, 1, dim)
    name = f"{ENCODER}posembed_input/pos_embedding"
    of_patches = name not in weights and "pos_embedding" in weights
    name = "pos_embedding" if of_patches else name
    positions = weights.take_tokens(name, dim)
    if cls is None:
        return {"pos_embed": positions}
    positions = torch.cat([torch.zeros(1, 1, dim), positions], 1) if of_patches else positions
    return {"pos_embed": positions, "cls_token": cls}


def take_block(
    weights: Weights, theirs: str, ours: str, parts: tuple[str, str, str], sizes: tuple[int, int, int, int]
) -> dict[str, Tensor]:
    """The weights of one block under our names.

    Args:
        parts: one of PARTS.
        sizes: D, H, K and the width of the hidden layer.
    """
    dim, heads, width, mlp_dim = sizes
    attention, second, mlp = (theirs + part for part in parts)
    names = [f"{attention}{name}" for name in ("query", "key", "value")]
    qkv = [take_dense(weights, f"{ours}attn.qkv", name, (dim,), (heads, width)) for name in names]
    return {
        **take_norm(weights, f"{ours}norm1", f"{theirs}LayerNorm_0", dim),
        **{name: torch.cat([part[name] for part in qkv]) for name in qkv[0]},
        **take_dense(weights, f"{ours}attn.proj", f"{attention}out", (heads, width), (dim,)),
        **take_norm(weights, f"{ours}norm2", second, dim),
        **take_dense(weights, f"{ours}mlp.fc1", f"{mlp}Dense_0", (dim,), (mlp_dim,)),
        **take_dense(weights, f"{ours}mlp.fc2", f"{mlp}Dense_1", (mlp_dim,), (dim,)),
    }


def take_dense(
    weights: Weights, ours: str, theirs: str, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> dict[str, Tensor]:
    """Weight and bias of a layer under our name; theirs is (*inputs, *outputs), where heads are a dimension."""
    kernel, bias = weights.take(f"{theirs}/kernel", *inputs, *outputs), weights.take(f"{theirs}/bias", *outputs)
    return {f"{ours}.weight": kernel.reshape(math.prod(inputs), -1).T.contiguous(), f"{ours}.bias": bias.flatten()}


def take_norm(weights: Weights, ours: str, theirs: str, dim: int) -> dict[str, Tensor]:
    """Gain and bias of a norm under our name."""
    gain, bias = (weights.take(f"{theirs}/{name}", dim) for name in ("scale", "bias"))
    return {f"{ours}.weight": gain, f"{ours}.bias": bias}


LAYOUT = Layout("google-research", ("embedding/kernel", "stem/kernel"), read)
