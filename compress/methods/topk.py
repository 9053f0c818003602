"""Top-k: the patches that the class token attends to least leave (EViT, Liang et al. 2022, arXiv 2202.07800).

Modifications to the baseline: `encoder` is replaced by `TopKEncoder`, which holds the same blocks.

- In a few blocks, between the halves, the patches of highest score stay: the attention they get from the class token,
  mean over heads. Only that row of the attention matrix is formed; attention itself stays with the fused kernel.
- A learned pooling is asked itself, and with a plain mean those stay that point farthest away from it. (The attention
  that patches get from all others, or from their mean query, chooses worse than chance: docs/log.md.)
- `fuse` puts one token in the place of all that leave: their mean, weighted by score. The published code adds
  them up without dividing by the weights, so that the token shrinks with what it stands for. Where the head takes a
  mean over tokens, it counts as many as it replaced.
- Nothing is learned, so it works without training; fine-tuning runs through the same gather.

Legend: B images, N tokens, D width, P patches, H heads, K width of a head, L blocks.
"""

import copy
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from baselines.macs import dense_macs, reduced_macs
from baselines.output import EncoderOutput
from baselines.reduction import (
    Attentiveness,
    Distinctness,
    PooledWeight,
    Products,
    gather_rows,
    repeat_counts,
    select_patches,
)
from baselines.schedule import Counts, Damage, Search, clip_counts, find_schedule
from baselines.tokenizer import normalize_weights
from baselines.vit import Encoder, VisionTransformer
from compress.methods.base import Pruning


class TopK(Pruning):
    name: ClassVar[str] = "topk"
    refinement: ClassVar[Mapping[str, Any]] = {"learned": True}

    fuse: bool = False  # one token stands for all that leave
    learned: bool = False  # where and how many leave is found on training images, at the cost of keep and at
    # Share of the dense model's MACs that an image may cost, instead of keep and at; where patches leave is found
    target_macs: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _one_amount(self) -> "TopK":
        if self.target_macs is not None and self.model_fields_set & {"keep", "at"}:
            raise ValueError("target_macs finds where and how many patches leave; remove keep and at, or target_macs")
        return self

    @property
    def searches(self) -> bool:
        return self.learned or self.target_macs is not None

    def settle(self, model: VisionTransformer, batches: list[Tensor]) -> "TopK":
        config, made = model.config, copy.deepcopy(model)
        patches = config.tokens - config.prefix_tokens

        def choose(leaving: Counts) -> TopK:
            left = [patches - gone for gone in itertools.accumulate(leaving)]
            places = [block for block, gone in enumerate(leaving) if gone]
            shares = {"keep": tuple(left[block] / patches for block in places), "at": tuple(places)}
            settings = shares if places else {"keep": 1.0, "at": None}
            return self.model_copy(update={**settings, "learned": False, "target_macs": None})

        def reduce(leaving: Counts) -> None:
            made.encoder = TopKEncoder(model, choose(leaving))

        def macs(method: TopK) -> int:
            encoder = TopKEncoder(model, method)
            return reduced_macs(config, encoder.leaving) + encoder.own_macs

        search = Search(
            possible=lambda leaving: clip_counts(leaving, patches - 1),
            macs=lambda leaving: macs(choose(leaving)),
            damage=Damage(made, batches, reduce),
        )
        even: list[Counts] = []
        budget = (self.target_macs or 1) * dense_macs(config)
        if self.target_macs is None:
            even, budget = [tuple(TopKEncoder(model, self.model_copy(update={"fuse": False})).leaving)], macs(self)
        return choose(find_schedule(search, config.depth, patches, budget, self.multiple, even))

    def prepare(self, model: VisionTransformer) -> VisionTransformer:
        assert not self.searches
        model.encoder = TopKEncoder(model, self)
        return model


class TopKEncoder(Encoder):
    def __init__(self, model: VisionTransformer, method: TopK):
        super().__init__(model.encoder.blocks)
        config = model.config
        self.importance, self.prefix = importance(model), config.prefix_tokens
        self.counts, self.fuse = method.counts(config), method.fuse
        self.own_macs, tokens = 0, config.tokens
        self.leaving = [0] * config.depth  # tokens
        for block, count in self.counts.items():
            heads, width, *_ = config.blocks[block]
            seen = torch.empty(1, tokens, config.dim, device="meta")
            keys = torch.empty(1, heads, tokens, width, device="meta")
            self.own_macs += self.importance.macs(seen, keys, keys)
            after = self.prefix + count + self.fuse
            self.leaving[block], tokens = tokens - after, after

    def forward(self, x_BND: Tensor) -> EncoderOutput:
        run, mlp_run = [], []  # tokens in the halves of each block
        place_BN = torch.arange(x_BND.shape[1], device=x_BND.device)[None]
        size_BN = torch.ones(x_BND.shape[:2], device=x_BND.device) if self.fuse else None
        for index, block in enumerate(self.blocks):
            run.append(x_BND.shape[1])
            if index in self.counts:
                leaving = Leaving(self, self.counts[index])
                x_BND = block(x_BND, between=leaving)
                size_BN = leaving.sizes(size_BN)
                if self.watch is not None:
                    place_BN = leaving.places(place_BN)
                    self.watch(place_BN)
            else:
                x_BND = block(x_BND)
            mlp_run.append(x_BND.shape[1])
        batch, device = x_BND.shape[0], x_BND.device
        return EncoderOutput(x_BND, repeat_counts(run, batch, device), repeat_counts(mlp_run, batch, device), size_BN)


def importance(model: VisionTransformer) -> Products:
    """What says how much each token matters: by what the model's own head looks at."""
    if model.config.pool == "cls":
        return Attentiveness()
    return Distinctness() if model.sequence_pool is None else PooledWeight(model.norm, model.sequence_pool)


class Leaving:
    """What happens between the halves of one block; called with tokens, queries and keys, it returns what goes on."""

    def __init__(self, encoder: TopKEncoder, count: int):
        self.encoder, self.count, self.prefix = encoder, count, encoder.prefix

    def __call__(self, x_BND: Tensor, q_BHNK: Tensor, k_BHNK: Tensor) -> Tensor:
        self.score_BP = self.encoder.importance(x_BND, q_BHNK, k_BHNK)[:, self.prefix :]
        self.index_BR = select_patches(self.score_BP, self.count, self.prefix)
        stay_BRD = gather_rows(x_BND, self.index_BR)
        if not self.encoder.fuse:
            return stay_BRD
        self.left_BP = self.score_BP.scatter(1, self.index_BR[:, self.prefix :] - self.prefix, 0.0)
        share_BP = normalize_weights(self.left_BP).to(x_BND.dtype)
        return torch.cat([stay_BRD, (share_BP[..., None] * x_BND[:, self.prefix :]).sum(1, keepdim=True)], 1)

    def sizes(self, size_BN: Tensor | None) -> Tensor | None:
        """Patches that each token stands for: before -> after."""
        if size_BN is None:
            return None
        stay_BR = size_BN.gather(1, self.index_BR)
        return torch.cat([stay_BR, (size_BN.sum(1) - stay_BR.sum(1))[:, None]], 1)

    def places(self, place_BN: Tensor) -> Tensor:
        """Positions in the image: before -> after. The token that stands for others is where the first of them was."""
        stay_BR = place_BN.gather(1, self.index_BR)
        if not self.encoder.fuse:
            return stay_BR
        return torch.cat([stay_BR, place_BN.gather(1, self.left_BP.argmax(1, keepdim=True) + self.prefix)], 1)
