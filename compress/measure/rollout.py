"""Which tokens of an image run in which blocks, and how much of each reaches the answer.

Attention rollout (Abnar & Zuidema 2020, arXiv 2005.00928): a block mixes tokens by A = (W + I) / 2, where W is
attention averaged over heads and I the residual connection; the product over the blocks says how much of each token
reaches the output. Rows of A add up to 1 as they are. A token that does not run in a block has its row of I.

The fused kernel never forms W, so W is computed once more, from the queries and keys that each `attn` hands out.

Legend: N tokens of the image, T rows that run in a block, D width, H heads, K width of a head.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from baselines.output import EncoderOutput
from baselines.tokenizer import normalize_weights
from baselines.vit import VisionTransformer


@dataclass(frozen=True)
class Trace:
    """One image on its way through a model."""

    logits: Tensor  # (classes,)
    blocks_N: Tensor  # in how many blocks each token ran, int64
    rollout_N: Tensor  # share of each token in what the head looks at, float64; adds up to 1


@dataclass(frozen=True)
class Mixing:
    """What the attention of one block did."""

    token_T: Tensor  # position of each row in its image, 0 to N - 1
    weights_TT: Tensor  # from each row to each, mean over heads, float64; rows add up to 1


@torch.inference_mode()
def trace(model: VisionTransformer, image: Tensor) -> Trace:
    """Runs one normalized image (1, C, height, width) through a model in evaluation mode, and watches.

    An encoder that drops tokens has to say so by `Encoder.watch`.
    """
    observer = Observer(model)
    try:
        logits = model(image)[0]
    finally:
        observer.leave()
    blocks_N = torch.zeros(model.config.tokens, dtype=torch.long)
    for mixing in observer.mixings:
        blocks_N[mixing.token_T] += 1
    return Trace(logits, blocks_N, rollout(observer.mixings, observer.looked_at()))


def rollout(mixings: list[Mixing], start_N: Tensor) -> Tensor:
    """The row vector `start_N` times the mixing matrices of the blocks, last block first: (N,)."""
    share_N = start_N.clone()
    for mixing in reversed(mixings):
        rows_T = share_N[mixing.token_T]
        share_N[mixing.token_T] = (rows_T @ mixing.weights_TT + rows_T) / 2
    return share_N


class Observer:
    """Notes what one image does in `model`, until it leaves."""

    def __init__(self, model: VisionTransformer):
        self.model, self.config, self.encoder = model, model.config, model.encoder
        self.token_T = torch.arange(model.config.tokens)  # those that go on
        self.mixings: list[Mixing] = []
        self.out_BND = torch.empty(1, 0, 0)  # tokens that the encoder gave to the head
        self.sizes: Tensor | None = None  # patches that each of them stands for
        self.hooks = [self.encoder.register_forward_hook(self._finished)]
        for block in self.encoder.blocks:
            attention = block.get_submodule("attn")
            self.hooks.append(attention.register_forward_hook(self._attended, with_kwargs=True))
        self.encoder.watch = self._left

    def leave(self) -> None:
        self.encoder.watch = None
        for hook in self.hooks:
            hook.remove()

    def looked_at(self) -> Tensor:
        """How much each token counts in the head, (N,) float64, summing to 1."""
        share_N = torch.zeros(self.config.tokens, dtype=torch.float64)
        first, pool = self.config.head_tokens, self.model.sequence_pool
        if self.config.pool == "cls":
            share_N[:first] = 1 / first
            return share_N
        patches, outputs = slice(self.config.registers, None), self.out_BND.shape[1]
        left_T = self.token_T if outputs == len(self.token_T) else torch.arange(outputs)
        size = torch.ones(1, outputs) if self.sizes is None else self.sizes
        if pool is not None:
            weights = pool.weights(self.model.norm(self.out_BND)[:, patches], size[:, patches])
        else:
            weights = normalize_weights(size[:, patches].double())
        share_N[left_T[patches]] = weights[0].double()
        return share_N

    def _left(self, token_T: Tensor) -> None:
        self.token_T = token_T.flatten()

    def _attended(self, attention: Any, args: tuple[Any, ...], given: dict[str, Any], out: Any) -> None:
        _, q, k = out
        mask = given.get("mask", args[1] if len(args) > 1 else None)
        assert q.shape[2] == len(self.token_T), f"{type(self.encoder).__name__} dropped tokens without a word"
        weights_1HTT = attention.weights(q.double(), k.double(), mask, None)
        self.mixings.append(Mixing(self.token_T, weights_1HTT[0].mean(0)))

    def _finished(self, _encoder: nn.Module, _inputs: Any, out: EncoderOutput) -> None:
        self.out_BND, self.sizes = out.tokens, out.sizes
