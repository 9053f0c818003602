"""How tokens leave an encoder, as many of every image: after which blocks, how many, and which stay.

Legend: B images, N tokens, D width, H heads, K width of a head, P patches, R rows that stay.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.geometry import ViTConfig
from baselines.tokenizer import SequencePool


class Products(nn.Module):
    """Matrix products that belong to no Linear layer. Counters that see modules, not functions, ask `macs`."""

    macs: Callable[..., int]  # of one call, given its inputs


class Attentiveness(Products):
    """How much attention each patch gets from the class token (EViT, Liang et al. 2022, arXiv 2202.07800, eq. 3).

    One row of the attention matrix; the rest is never formed.
    """

    def forward(self, x_BND: Tensor, q_BHNK: Tensor, k_BHNK: Tensor) -> Tensor:
        """Tokens, queries and keys of a block -> shares (B, N), mean over heads, summing to 1."""
        scores = q_BHNK[:, :, :1] @ k_BHNK.transpose(-2, -1) * k_BHNK.shape[-1] ** -0.5
        return scores.float().softmax(-1).mean(1)[:, 0]

    def macs(self, _x_BND: Tensor, _q_BHNK: Tensor, k_BHNK: Tensor) -> int:
        return k_BHNK.numel()


class PooledWeight(Products):
    """How much each token would count in a learned pooling, if the model ended here; `norm` and `pool` are the model's.

    They are not registered once more: they belong to the model.
    """

    def __init__(self, norm: nn.Module, pool: SequencePool):
        super().__init__()
        self.borrowed = norm, pool

    def forward(self, x_BND: Tensor, *_: Tensor) -> Tensor:
        """Tokens (B, N, D) -> shares (B, N), summing to 1."""
        norm, pool = self.borrowed
        return pool.weights(norm(x_BND)).float()

    def macs(self, x_BND: Tensor, *_: Tensor) -> int:
        return x_BND.numel()


class Distinctness(Products):
    """How far each token points away from their mean: 1 - cosine. For models that ask no token in particular."""

    def forward(self, x_BND: Tensor, *_: Tensor) -> Tensor:
        """Tokens (B, N, D) -> (B, N), above 0 and up to 2."""
        return (1 - F.cosine_similarity(x_BND, x_BND.mean(1, keepdim=True), dim=-1).float()).clamp(min=1e-6)

    def macs(self, x_BND: Tensor, *_: Tensor) -> int:
        return 0


def choose_blocks(depth: int, stages: int = 3) -> tuple[int, ...]:
    """Blocks, counted from 0, at which tokens leave: evenly spaced, never the first where there is another.

    12 blocks give 3, 6, 9, as in DynamicViT and EViT.
    """
    every = (max(depth * stage // (stages + 1), min(1, depth - 1)) for stage in range(1, stages + 1))
    return tuple(sorted(set(every)))


def count_patches_left(config: ViTConfig, shares: Sequence[float], multiple: int = 1) -> list[int]:
    """How many patches stay when these shares of all of them should.

    Args:
        multiple: what the number of tokens, prefix included, is rounded to, at least one patch and at most all.
    """
    patches, counts = config.tokens - config.prefix_tokens, []
    for share in shares:
        count = math.ceil(patches * share - 1e-9)
        if multiple > 1 and count < patches:
            tokens = max(round((count + config.prefix_tokens) / multiple), 1) * multiple
            count = max(tokens - config.prefix_tokens, 1)
        patches_before = counts[-1] if counts else patches
        counts.append(min(count, patches_before))
    return counts


def select_patches(score_BP: Tensor, count: int, prefix: int) -> Tensor:
    """Rows of the prefix, then of the `count` patches of highest score (B, P), in no order: (B, prefix + count)."""
    index_BR = score_BP.topk(count, 1, sorted=False).indices + prefix
    if prefix == 0:
        return index_BR
    first = torch.arange(prefix, device=score_BP.device).expand(score_BP.shape[0], -1)
    return torch.cat([first, index_BR], 1)


def gather_rows(x_BND: Tensor, index_BR: Tensor) -> Tensor:
    """The given rows of each image: (B, R, D). Whole rows of one matrix are copied, which is the fastest gather."""
    batch, tokens, dim = x_BND.shape
    start_B1 = tokens * torch.arange(batch, device=x_BND.device)[:, None]
    return x_BND.reshape(batch * tokens, dim).index_select(0, (index_BR + start_B1).flatten()).view(batch, -1, dim)


def repeat_counts(tokens_L: Sequence[int], batch: int, device: torch.device) -> Tensor:
    """Tokens in each block, the same for every image, as `Encoder.forward` reports them: (B, L)."""
    return torch.tensor(tokens_L).to(device, non_blocking=True).expand(batch, -1)
