"""ToMe: in every block the patches that are most alike become one (Bolya et al. 2023, arXiv 2210.09461).

Modifications to the baseline: `encoder` is replaced by `ToMeEncoder`, which holds the same blocks. Written from the
paper; where it leaves a choice, or the published code departs from what is meant, the choice taken is:

- Between the halves of a block the patches, in the order they stand in, fall into two sets in turn, A and B. Each of A
  finds the one of B whose keys (mean over heads) have the highest cosine with its own, and the r patches of A that are
  most alike theirs are merged into them: a mean, weighted by how many patches each stands for (section 3).
- A key that stands for s patches gets the attention of s of them: log(s) is added to its scores (eq. 1,
  `proportional`). It goes into the fused kernel as a mask, from the first merge on.
- Only patches take part: class token, distillation token and registers stay as they are.
- A head that takes a mean over tokens, plain or learned, counts each as the patches that it stands for.
- Which patches are merged has no gradient, and needs none: nothing is learned, so it works without training, and
  fine-tuning runs the same path.

Legend: B images, N tokens, D width, P patches, H heads, K width of a head, L blocks, R patches that are merged away,
        S patches of the set A that stay.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from baselines.errors import InputError
from baselines.macs import dense_macs, reduced_macs
from baselines.output import EncoderOutput
from baselines.reduction import Products, gather_rows, repeat_counts
from baselines.schedule import Counts, Damage, Search, find_schedule
from baselines.vit import Encoder, VisionTransformer, ViTConfig
from compress.methods.base import Ranges, TokenMethod
from compress.ranges import Range


class ToMe(TokenMethod):
    name: ClassVar[str] = "tome"
    identity: ClassVar[Mapping[str, Any]] = {"r": 0}
    ranges: ClassVar[Ranges] = {"target_macs": Range(low=0.4, high=0.95, step=0.05)}
    refinement: ClassVar[Mapping[str, Any]] = {"learned": True}

    # Patches merged away in each block, half of them at most; or one number for each block. None: the smallest that
    # meets target_macs
    r: int | tuple[int, ...] | None = None
    target_macs: float = Field(default=0.7, gt=0, le=1)  # share of the dense model's MACs that an image may cost
    learned: bool = False  # the r of each block that does least damage at target_macs, found on training images
    proportional: bool = True  # a token that stands for several patches gets the attention of several

    @field_validator("r")
    @classmethod
    def _counts(cls, r: int | tuple[int, ...] | None) -> int | tuple[int, ...] | None:
        if r is not None and min(r if isinstance(r, tuple) else (r,), default=-1) < 0:
            raise ValueError(f"r {r} is no number of patches; give one from 0 on, or a list with one for each block")
        return r

    @property
    def searches(self) -> bool:
        return self.learned

    def settle(self, model: VisionTransformer, batches: list[Tensor]) -> "ToMe":
        config, made = model.config, copy.deepcopy(model)

        def reduce(leaving: Counts) -> None:
            made.encoder = ToMeEncoder(model, leaving, proportional=self.proportional)

        search = Search(
            possible=lambda leaving: tuple(possible(config, leaving)),
            macs=lambda leaving: merged_macs(config, leaving),
            damage=Damage(made, batches, reduce),
        )
        patches, budget = config.tokens - config.prefix_tokens, self.target_macs * dense_macs(config)
        even = self.model_copy(update={"r": None}).merged(config)
        found = find_schedule(search, config.depth, patches, budget, known=[tuple(even)])
        return self.model_copy(update={"r": found, "learned": False})

    def prepare(self, model: VisionTransformer) -> VisionTransformer:
        assert not self.searches
        model.encoder = ToMeEncoder(model, self.merged(model.config), proportional=self.proportional)
        return model

    def merged(self, config: ViTConfig) -> list[int]:
        """How many patches are merged away in each block.

        Raises:
            InputError: r has another length than the model, or no r meets `target_macs`.
        """
        if isinstance(self.r, tuple):
            if len(self.r) != config.depth:
                raise InputError(
                    f"[methods.tome] r has {len(self.r)} numbers, but the model has {config.depth} blocks; "
                    "give one number for each block, or a single one for all"
                )
            return possible(config, self.r)
        if self.r is not None:
            return possible(config, [self.r] * config.depth)
        dense, most = dense_macs(config), (config.tokens - config.prefix_tokens + 1) // 2
        share = 1.0
        for r in range(most + 1):
            merged = possible(config, [r] * config.depth)
            share = merged_macs(config, merged) / dense
            if share <= self.target_macs:
                return merged
        raise InputError(
            f"[methods.tome] target_macs = {self.target_macs} is out of reach, since {share:.1%} of the MACs remain "
            f"when all that can is merged; set it to {math.ceil(share * 100) / 100} or more"
        )


def possible(config: ViTConfig, wanted: Sequence[int]) -> list[int]:
    """Patches merged away in each block when so many should be: no more than the set A has.

    Two patches are always left, since batch normalization cannot train on a single token.
    """
    patches, merged = config.tokens - config.prefix_tokens, []
    for r in wanted:
        merged.append(min(r, (patches + 1) // 2, max(patches - 2, 0)))
        patches -= merged[-1]
    return merged


def merged_macs(config: ViTConfig, merged: Sequence[int]) -> int:
    """MACs of one image when so many patches are merged away in each block, finding them included."""
    return reduced_macs(config, merged) + selection_macs(config, merged)


def selection_macs(config: ViTConfig, merged: Sequence[int]) -> int:
    """MACs of one image in comparing patches."""
    patches, macs = config.tokens - config.prefix_tokens, 0
    for r, sizes in zip(merged, config.blocks, strict=True):
        if r:
            macs += (patches + 1) // 2 * (patches // 2) * sizes.qk_dim
        patches -= r
    return macs


class Similarity(Products):
    """Cosine of each patch of the set A with each of B."""

    def forward(self, metric_BPK: Tensor) -> Tensor:
        """What is compared (B, P, K) -> (B, patches of A, patches of B)."""
        unit_BPK = F.normalize(metric_BPK.float(), dim=-1)
        return unit_BPK[:, ::2] @ unit_BPK[:, 1::2].transpose(-2, -1)

    def macs(self, metric_BPK: Tensor) -> int:
        batch, patches, width = metric_BPK.shape
        return batch * ((patches + 1) // 2) * (patches // 2) * width


class ToMeEncoder(Encoder):
    def __init__(self, model: VisionTransformer, merged: Sequence[int], *, proportional: bool):
        super().__init__(model.encoder.blocks)
        self.similarity, self.prefix = Similarity(), model.config.prefix_tokens
        self.merged, self.proportional = list(merged), proportional
        self.own_macs = selection_macs(model.config, merged)

    def forward(self, x_BND: Tensor) -> EncoderOutput:
        run, mlp_run = [], []  # tokens in the halves of each block
        place_BN = torch.arange(x_BND.shape[1], device=x_BND.device)[None]
        size_BN = mask = None  # before the first merge each token is one patch
        for block, r in zip(self.blocks, self.merged, strict=True):
            run.append(x_BND.shape[1])
            if r:
                merging = Merging(self, r, size_BN)
                x_BND = block(x_BND, mask=mask, between=merging)
                size_BN = merging.size_BN
                mask = size_BN.log()[:, None, None].to(x_BND.dtype) if self.proportional else None
                if self.watch is not None:
                    place_BN = place_BN.gather(1, merging.pairs.stay_BN)
                    self.watch(place_BN)
            else:
                x_BND = block(x_BND, mask=mask)
            mlp_run.append(x_BND.shape[1])
        batch, device = x_BND.shape[0], x_BND.device
        return EncoderOutput(x_BND, repeat_counts(run, batch, device), repeat_counts(mlp_run, batch, device), size_BN)


@dataclass(frozen=True)
class Pairs:
    """Who is merged into whom, in one block."""

    stay_BN: Tensor  # rows that stay: the prefix, the patches of A that are left, all of B
    from_BR: Tensor  # rows that leave
    into_BR: Tensor  # where each of them goes, counted among the rows that stay


def pair(cosine_BAB: Tensor, r: int, prefix: int) -> Pairs:
    """The r patches of A, which are the even ones, that are most alike one of B."""
    batch, evens, odds = cosine_BAB.shape
    order_BA = cosine_BAB.amax(-1).topk(evens, 1).indices  # one order, so that each patch either leaves or stays
    leave_BR, left_BS = order_BA[:, :r], order_BA[:, r:]
    partner_BR = gather_rows(cosine_BAB, leave_BR).argmax(-1)  # only of those that leave
    rows = torch.arange(prefix + evens + odds, device=cosine_BAB.device).expand(batch, -1)
    stay_BN = torch.cat([rows[:, :prefix], prefix + 2 * left_BS, rows[:, prefix + 1 :: 2]], 1)
    return Pairs(stay_BN, prefix + 2 * leave_BR, prefix + evens - r + partner_BR)


class Merging:
    """What happens between the halves of one block; called with tokens, queries and keys, it returns what goes on."""

    def __init__(self, encoder: ToMeEncoder, r: int, size_BN: Tensor | None):
        self.encoder, self.r, self.before_BN = encoder, r, size_BN

    def __call__(self, x_BND: Tensor, _q_BHNK: Tensor, k_BHNK: Tensor) -> Tensor:
        prefix = self.encoder.prefix
        cosine_BAB = self.encoder.similarity(k_BHNK.detach()[:, :, prefix:].mean(1))
        self.pairs = pair(cosine_BAB, self.r, prefix)
        before_BN = torch.ones_like(x_BND[..., 0], dtype=torch.float32) if self.before_BN is None else self.before_BN
        merged_BND, self.size_BN = merge(x_BND, before_BN, self.pairs)
        return merged_BND


def merge(x_BND: Tensor, size_BN: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Tokens and the patches each of them stands for, before -> after.

    A token of size t that takes in one of size s moves towards it by s / (s + t) of the way, and likewise with
    several. So only the rows that are merged are computed with; the others are copied once.
    """
    dim = x_BND.shape[2]
    leaving_BR = size_BN.gather(1, pairs.from_BR)
    after_BN = size_BN.gather(1, pairs.stay_BN).scatter_add(1, pairs.into_BR, leaving_BR)
    share_BR1 = (leaving_BR / after_BN.gather(1, pairs.into_BR)).to(x_BND.dtype)[..., None]
    stay_BND = gather_rows(x_BND, pairs.stay_BN)
    batch, tokens, _ = stay_BND.shape
    way_BRD = share_BR1 * (gather_rows(x_BND, pairs.from_BR) - gather_rows(stay_BND, pairs.into_BR))
    row_BR = pairs.into_BR + tokens * torch.arange(batch, device=x_BND.device)[:, None]
    moved = stay_BND.view(batch * tokens, dim).index_add_(0, row_BR.flatten(), way_BRD.view(-1, dim))
    return moved.view(batch, tokens, dim), after_BN
