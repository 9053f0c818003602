"""Closed-form multiply-accumulates (MACs) and parameters of a `VisionTransformer`.

One MAC is one multiplication and one addition; FLOPs are twice that. Counted: convolutions, Linear layers and both
matrix products of attention. Not counted: normalization, softmax, GELU, additions, biases.

Legend: B images, D width, M keys, as in `vit.py`; L blocks.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from baselines.vit import BlockSizes, ViTConfig

Count = TypeVar("Count", int, Tensor)


def projection_macs(config: ViTConfig, sizes: BlockSizes) -> int:
    """MACs that one token costs in the two Linear layers of attention in a block of these sizes."""
    return 2 * config.dim * (sizes.qk_width + sizes.v_width)


def mlp_macs(config: ViTConfig, sizes: BlockSizes) -> int:
    """MACs that one token costs in the MLP of a block of these sizes."""
    return 2 * config.dim * sizes.mlp_dim


def linear_macs(config: ViTConfig, sizes: BlockSizes | None = None) -> int:
    """MACs that one token costs in the four Linear layers of one block; of the first one, unless `sizes` says."""
    sizes = sizes or config.blocks[0]
    return projection_macs(config, sizes) + mlp_macs(config, sizes)


def attention_macs(config: ViTConfig, width: Count, sizes: BlockSizes | None = None) -> Count:
    """MACs of `q @ k` and `attention @ v` of one image in one block, over a square of `width` tokens."""
    sizes = sizes or config.blocks[0]
    return (sizes.qk_width + sizes.v_width) * width * width


def stem_macs(config: ViTConfig, outputs: int | None = None) -> int:
    """MACs of one image outside the blocks: tokenizer, pooling and heads.

    Args:
        outputs: tokens that reach the pooling, prefix included; None: all.
    """
    grid_height, grid_width = config.grid
    if config.tokenizer in ("linear", "normed"):
        embed = grid_height * grid_width * config.dim * config.channels * config.patch_size**2
    else:
        embed, side = 0, config.patch_size
        for channels_in, channels_out in config.conv_channels:
            after = max(side // 2, 1)  # places along one side of a token that the layer leaves; pooling is free
            computed = after if config.tokenizer == "conv" else side
            embed += grid_height * grid_width * computed * computed * 9 * channels_in * channels_out
            side = after
    pooled = (outputs or config.tokens) - config.prefix_tokens
    pooling = 2 * pooled * config.dim if config.pool == "seq" else 0  # scores, weighted mean
    head = config.representation * (config.dim + config.classes) or config.dim * config.classes
    return embed + pooling + head * (1 + config.distill_token)


def dense_macs(config: ViTConfig) -> int:
    """MACs of one image when every token runs through every block."""
    tokens = config.tokens
    blocks = (tokens * linear_macs(config, each) + attention_macs(config, tokens, each) for each in config.blocks)
    return stem_macs(config) + sum(blocks)


def ragged_macs(
    config: ViTConfig,
    tokens_BL: Tensor,
    width_BL: Tensor,
    mlp_tokens_BL: Tensor | None = None,
    outputs: int | None = None,
) -> Tensor:
    """MACs of each image (B,), float64, when only some tokens run.

    Args:
        tokens_BL: tokens of each image that ran through each block.
        width_BL: tokens that attention was computed over: the same, or more where it was padded.
        mlp_tokens_BL: tokens that ran through the second half of each block, where they were others.
        outputs: tokens that reach the pooling, prefix included; None: all.
    """
    mlp_tokens_BL = tokens_BL if mlp_tokens_BL is None else mlp_tokens_BL
    total_B = torch.full_like(tokens_BL[:, 0], stem_macs(config, outputs), dtype=torch.float64)
    for block, sizes in enumerate(config.blocks):
        total_B = total_B + tokens_BL[:, block].double() * projection_macs(config, sizes)
        total_B = total_B + mlp_tokens_BL[:, block].double() * mlp_macs(config, sizes)
        total_B = total_B + attention_macs(config, width_BL[:, block].double(), sizes)
    return total_B


def reduced_macs(config: ViTConfig, leaving_L: Sequence[int]) -> int:
    """MACs of one image when so many of its tokens leave between the halves of each block."""
    leaving_1L = torch.tensor([list(leaving_L)])
    after_1L = config.tokens - leaving_1L.cumsum(1)
    before_1L, outputs = after_1L + leaving_1L, int(after_1L[0, -1])
    return int(ragged_macs(config, before_1L, before_1L, after_1L, outputs).item())


def params(config: ViTConfig) -> int:
    """Learned weights of the dense model."""
    dim = config.dim
    if config.tokenizer in ("linear", "normed"):
        values = config.channels * config.patch_size**2
        embed = dim * values + dim + 2 * (dim + values) * (config.tokenizer == "normed")
    else:
        bias = config.tokenizer == "conv"
        embed = sum((9 * channels_in + bias) * channels_out for channels_in, channels_out in config.conv_channels)
    blocks = 0
    for each in config.blocks:
        biases = 2 * each.qk_width + each.v_width + each.mlp_dim + 2 * dim
        blocks += linear_macs(config, each) + biases + 4 * dim  # two norms
        blocks += 4 * each.qk_dim * config.qk_norm + 2 * dim * (config.layer_scale > 0)
    tokens = (config.tokens + config.prefix_tokens) * dim
    pooling = dim + 1 if config.pool == "seq" else 0
    last = config.representation or dim
    heads = (last + 1) * config.classes * (1 + config.distill_token) + (dim + 1) * config.representation
    norms = 2 * dim * (1 + config.pre_norm)
    return embed + tokens + blocks + norms + pooling + heads
