"""vit-pytorch's `ViT` and `SimpleViT`, and the many tutorials that began as a copy of them.

    to_patch_embedding  cls_token  pos_embedding  transformer.layers.N.{0,1}  transformer.norm  mlp_head

Read from the names and shapes that its releases 0.3 (2020) to 1.26 write. Its parts changed one at a time, and copies
mix them, so each is looked up on its own. From the oldest to the newest:

- Patches: a Linear, `patch_to_embedding`, then `to_patch_embedding.1`; then with a norm before and after it. The values
  of a patch stand as (row, column, channel).
- Blocks: `Residual(PreNorm(Attention))`, which makes `N.0.fn.norm` and `N.0.fn.fn.to_qkv`; then `PreNorm(Attention)`,
  `N.0.norm` and `N.0.fn.to_qkv`; then each holds its norm: `N.0.norm` and `N.0.to_qkv`.
- The last norm: `mlp_head.0`, behind the pooling and in front of `mlp_head.1`; then `transformer.norm`.
- `SimpleViT` has `linear_head`, the mean over patches, and positions that are computed.

Legend: D width, N tokens.
"""

import functools
import math
from typing import Any

import torch
from torch import Tensor

from baselines.errors import InputError
from compress.importers.base import UNKNOWN, Hints, ImportedModel, Layout
from compress.importers.geometry import confirm_heads, infer_config, infer_image_size, is_square, make_empty_head
from compress.importers.weights import Weights

WRAPS = ("", "fn.", "fn.fn.")  # what may lie around attention and MLP
MARKER = "transformer.layers.0.0.{}to_qkv.weight"
EPS = 1e-5  # torch's own, in every norm
CHANNELS = (3, 1)
take_layer = functools.partial(Weights.take_layer, bias=None)  # copies leave out biases here and there


def read(weights: Weights, hints: Hints) -> ImportedModel:
    """See `Layout`."""
    wrap = next(wrap for wrap in WRAPS if MARKER.format(wrap) in weights)
    rows, dim = weights.shape(MARKER.format(wrap), 2)
    inner, depth = rows // 3, weights.count(f"transformer.layers.{{}}.0.{wrap}to_qkv.weight")
    heads = read_heads(weights, hints, wrap, inner, dim)
    factor = 1.0
    if "patch_to_embedding.weight" in weights and inner != heads * dim:
        factor = math.sqrt(inner / heads / dim)
        weights.notes.append(
            "attention scores are divided by the root of the width of the model, as in vit-pytorch up to 0.6.6; with "
            "the same names its 0.6.7 and 0.6.8 took the width of a head: look at the accuracy"
        )
    state, kinds = take_patches(weights, dim)
    for i in range(depth):
        names = f"transformer.layers.{i}.", f"encoder.blocks.{i}."
        state |= take_block(weights, *names, wrap, (inner, dim), factor)
    simple = "linear_head.weight" in weights or "linear_head.1.weight" in weights
    take = compute_positions if simple else take_tokens
    tokens, size = take(weights, hints, dim, kinds["patch_size"])
    last, known, joined = take_head(weights, "linear_head" if simple else "mlp_head", dim)
    state |= tokens | last
    norm_at = "pooled" if joined and "cls_token" not in state else "tokens"
    config = infer_config(weights, state, heads=heads, image_size=size, norm_eps=EPS, norm_at=norm_at, **kinds)
    return ImportedModel(config, state, head=known)


def read_heads(weights: Weights, hints: Hints, wrap: str, inner: int, dim: int) -> int:
    """Number of heads; a single one as wide as the model has no `to_out`, otherwise shapes do not tell.

    Args:
        inner: width of the queries of all heads together.

    Raises:
        InputError: it is not given, or does not fit.
    """
    if inner == dim and find_output(weights, f"transformer.layers.0.0.{wrap}") is None:
        return confirm_heads(weights, hints, 1, ", since its attention has no to_out")
    if hints.heads is None:
        usual = f", {inner // 64} if its dim_head was left at 64" if inner % 64 == 0 else ""
        raise InputError(
            f"{weights.path}: how many heads its blocks have cannot be read from such a file (queries of {inner} "
            f"values{usual}); say it with --heads"
        )
    if inner % hints.heads:
        raise InputError(
            f"--heads {hints.heads} does not divide the queries of {weights.path}, which have {inner} values; "
            "give another number"
        )
    return hints.heads


def take_patches(weights: Weights, dim: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What makes tokens of patches, and the settings it entails.

    Raises:
        InputError: the patches are no squares.
    """
    name = "patch_to_embedding" if "patch_to_embedding.weight" in weights else "to_patch_embedding.1"
    normed = len(weights.shape(f"{name}.weight")) == 1
    _, values = weights.shape("to_patch_embedding.2.weight" if normed else f"{name}.weight", 2)
    channels = next((each for each in CHANNELS if values % each == 0 and is_square(values // each)), None)
    if channels is None:
        raise InputError(
            f"{weights.path} cuts patches of {values} values, which make no square of 3 channels or of 1; {UNKNOWN}"
        )
    size = math.isqrt(values // channels)
    if channels == 1:
        weights.notes.append(f"images of one channel, since {values} values of a patch make no square of three")
    settings = {"tokenizer": "normed" if normed else "linear", "channels": channels, "patch_size": size}
    if normed:
        parts = {"before": 1, "project": 2, "after": 3}
        names = {f"patch_embed.{ours}": f"to_patch_embedding.{theirs}" for ours, theirs in parts.items()}
        return weights.take_layers(names, bias=None), settings
    state = take_layer(weights, "patch_embed", name, dim, values)
    last = state["patch_embed.weight"].view(dim, size, size, channels)
    return {**state, "patch_embed.weight": last.permute(0, 3, 1, 2).contiguous()}, settings


def take_block(
    weights: Weights, theirs: str, ours: str, wrap: str, widths: tuple[int, int], factor: float
) -> dict[str, Tensor]:
    """The weights of one block under our names.

    Args:
        widths: of queries and of tokens.
        factor: on the queries.
    """
    inner, dim = widths
    around = wrap.removesuffix("fn.")
    attention, net = f"{theirs}0.{wrap}", f"{theirs}1.{wrap}net."
    last = next((i for i in (4, 3, 2) if f"{net}{i}.weight" in weights), 3)  # with and without dropout before it
    names = {
        "norm1": f"{theirs}0.{around}norm",
        "norm2": f"{theirs}1.{around}norm" if wrap else f"{net}0",
        "mlp.fc1": f"{net}{0 if wrap else 1}",
        "mlp.fc2": f"{net}{last}",
    }
    state = take_layer(weights, f"{ours}attn.qkv", f"{attention}to_qkv", 3 * inner, dim)
    for name in ("weight", "bias") if factor != 1 else ():
        q, kv = state[f"{ours}attn.qkv.{name}"].split([inner, 2 * inner])
        state[f"{ours}attn.qkv.{name}"] = torch.cat([factor * q, kv])
    if (out := find_output(weights, attention)) is not None:
        names["attn.proj"] = out
    else:
        state |= {f"{ours}attn.proj.weight": torch.eye(dim, inner), f"{ours}attn.proj.bias": torch.zeros(dim)}
    return state | weights.take_layers({ours + name: other for name, other in names.items()}, bias=None)


def find_output(weights: Weights, attention: str) -> str | None:
    """The name of the layer behind attention; None where there is none."""
    names = (f"{attention}to_out.0", f"{attention}to_out")
    return next((name for name in names if f"{name}.weight" in weights), None)


def take_tokens(weights: Weights, hints: Hints, dim: int, patch_size: int) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """Class token, where there is one, and position embeddings (1, N, D); the size of images."""
    unsure = len(weights.shape("pos_embedding")) == 3  # as long as it was, a mean over tokens had a class token too
    names = {"pos_embed": "pos_embedding", "cls_token": "cls_token"}
    state = {ours: take_rows(weights, theirs, dim) for ours, theirs in names.items() if theirs in weights}
    prefix = state["cls_token"].shape[1] if "cls_token" in state else 0
    if not prefix:
        state.pop("cls_token", None)  # which newer versions keep, without rows
    elif unsure:
        weights.notes.append(
            "its head looks at the class token: pool='mean', a mean over class token and patches, looks the same in a "
            "file of this layout, and is not known here"
        )
    return state, infer_image_size(weights, hints, state["pos_embed"].shape[1] - prefix, patch_size)


def take_rows(weights: Weights, name: str, dim: int) -> Tensor:
    """Tokens, (N, D) or (1, N, D) -> (1, N, D)."""
    value = weights.take(name)
    found = value[None] if value.ndim == 2 else value
    if found.ndim != 3 or found.shape[0] != 1 or found.shape[2] != dim:
        raise weights.error(f"{name} holds {tuple(value.shape)} values, which are no tokens of width {dim}")
    return found


def compute_positions(
    weights: Weights, hints: Hints, dim: int, patch_size: int
) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """Sines and cosines of column and row, (1, N, D), and the size of images.

    Raises:
        InputError: the size of images is not given, patches do not divide it, or the width cannot be cut in four.
    """
    if hints.image_size is None:
        raise InputError(
            f"{weights.path} computes its positions, so how large its images are cannot be read from it; say it with "
            "--image-size HEIGHTxWIDTH"
        )
    height, width = hints.image_size
    if height % patch_size or width % patch_size:
        raise InputError(
            f"--image-size {height}x{width} is not divisible by the patches of {weights.path}, of {patch_size} x "
            f"{patch_size} pixels; give another size"
        )
    if dim % 4 or dim < 8:
        raise weights.error(f"tokens of width {dim} cannot hold sine-cosine positions, which need multiples of 4")
    rate = 1 / 10000 ** (torch.arange(dim // 4) / (dim // 4 - 1))  # in float32, as there: to the same bits
    grid = torch.meshgrid(torch.arange(height // patch_size), torch.arange(width // patch_size), indexing="ij")
    y, x = (each.flatten()[:, None] * rate for each in grid)
    return {"pos_embed": torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], 1)[None]}, hints.image_size


def take_head(weights: Weights, name: str, dim: int) -> tuple[dict[str, Tensor], bool, bool]:
    """The last norm and the head; whether there is a head, and whether the norm belongs to it.

    Raises:
        InputError: the head has a hidden layer, as before 0.3.
    """
    if any(f"{name}.{i}.weight" in weights for i in (2, 3, 4)):
        raise InputError(f"{weights.path} has a hidden layer in its {name}; {UNKNOWN}")
    joined = f"{name}.1.weight" in weights
    state = take_layer(weights, "norm", f"{name}.0" if joined else "transformer.norm")
    known = joined or f"{name}.weight" in weights
    head = take_layer(weights, "head", f"{name}.1" if joined else name) if known else make_empty_head(state, dim)
    return state | head, known, joined


LAYOUT = Layout("vit-pytorch", tuple(MARKER.format(wrap) for wrap in WRAPS), read)
