"""How tokens leave an encoder, as many of every image: after which blocks, how many, and which stay.

Legend: B images, N tokens, D width, H heads, K width of a head, P patches, R rows that stay.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from baselines.geometry import ViTConfig


class Products(nn.Module):
    """Matrix products that belong to no Linear layer. Counters that see modules, not functions, ask `macs`."""

    macs: Callable[..., int]  # of one call, given its inputs


class Attentiveness(Products):
    """How much attention each patch gets from the class token (EViT, Liang et al. 2022, arXiv 2202.07800, eq. 3).

    Where there is no class token, the mean of all patches' queries asks instead. Either way it is one row of the
    attention matrix, and the rest is never formed.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.cls, self.prefix = config.pool == "cls", config.prefix_tokens

    def forward(self, q_BHNK: Tensor, k_BHNK: Tensor) -> Tensor:
        """Queries and keys of a block -> shares (B, P), mean over heads; with the prefix they would sum to 1."""
        row_BH1K = q_BHNK[:, :, :1] if self.cls else q_BHNK[:, :, self.prefix :].mean(2, keepdim=True)
        scores = row_BH1K @ k_BHNK.transpose(-2, -1) * k_BHNK.shape[-1] ** -0.5
        return scores.float().softmax(-1).mean(1)[:, 0, self.prefix :]

    def macs(self, q_BHNK: Tensor, k_BHNK: Tensor) -> int:
        return k_BHNK.numel()


def places(depth: int, stages: int = 3) -> tuple[int, ...]:
    """Blocks, counted from 0, at which tokens leave: evenly spaced, never the first where there is another.

    12 blocks give 3, 6, 9, as in DynamicViT and EViT.
    """
    every = (max(depth * stage // (stages + 1), min(1, depth - 1)) for stage in range(1, stages + 1))
    return tuple(sorted(set(every)))


def patches_left(config: ViTConfig, shares: Sequence[float], multiple: int = 1) -> list[int]:
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


def best(score_BP: Tensor, count: int, prefix: int) -> Tensor:
    """Rows of the prefix, then of the `count` patches of highest score, in no order: (B, prefix + count)."""
    index_BR = score_BP.topk(count, 1, sorted=False).indices + prefix
    if prefix == 0:
        return index_BR
    first = torch.arange(prefix, device=score_BP.device).expand(score_BP.shape[0], -1)
    return torch.cat([first, index_BR], 1)


def take(x_BND: Tensor, index_BR: Tensor) -> Tensor:
    """The given rows of each image: (B, R, D). Whole rows of one matrix are copied, which is the fastest gather."""
    batch, tokens, dim = x_BND.shape
    start_B1 = tokens * torch.arange(batch, device=x_BND.device)[:, None]
    return x_BND.reshape(batch * tokens, dim).index_select(0, (index_BR + start_B1).flatten()).view(batch, -1, dim)


def widths(tokens_L: Sequence[int], batch: int, device: torch.device) -> Tensor:
    """Tokens in each block, the same for every image, as `Encoder.forward` reports them: (B, L)."""
    return torch.tensor(tokens_L, device=device).expand(batch, -1)
