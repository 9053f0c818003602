"""Sizes that the parts of a model may have, and the model that has them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from baselines.errors import InputError
from baselines.vit import BlockSizes, VisionTransformer, ViTConfig
from compress.pruning.compensation import compensate
from compress.pruning.importance import Scores
from compress.pruning.structure import Choice, Kept, cut, make_config

Kind = Literal["heads", "qk", "v", "mlp", "dim", "blocks"]
Step = tuple[Kind, int]  # what leaves, and in which block
Cost = Callable[[ViTConfig], float]  # of a geometry, such as its MACs
FIELDS: dict[str, str] = {"heads": "heads", "qk": "qk_dim", "v": "v_dim", "mlp": "mlp_dim"}
LEAST = 0.25  # share of a kind that stays in a block
BEYOND = "the amount is out of reach: {:.1%} remain when all has left that can; ask for less"


@dataclass(frozen=True)
class Sizes:
    """Of a model: its width, and those of each block as it was; None for a block that left."""

    dim: int
    blocks: tuple[BlockSizes | None, ...]

    @staticmethod
    def whole(config: ViTConfig) -> "Sizes":
        return Sizes(config.dim, tuple(config.blocks))

    def config(self, before: ViTConfig) -> ViTConfig:
        """The geometry of what is left of `before`."""
        return make_config(before, self.dim, [each for each in self.blocks if each is not None])


def choose(model: VisionTransformer, scores: Scores, sizes: Sizes) -> Choice:
    """Those of highest score, as many as `sizes` says."""
    blocks = {}
    for place, wanted in enumerate(sizes.blocks):
        if wanted is not None:
            found = scores.blocks[place]
            heads_H = _best(found.heads_H, wanted.heads)
            qk, v = (_best(each[heads_H], n) for each, n in ((found.qk_HK, wanted.qk_dim), (found.v_HV, wanted.v_dim)))
            blocks[place] = Kept(heads_H, qk, v, _best(found.mlp_M, wanted.mlp_dim))
    return Choice(blocks, _best(scores.dim_D, sizes.dim))


def _best(score: Tensor, count: int) -> Tensor:
    """Places of the highest along the last axis, ascending."""
    return score.topk(count, -1).indices.sort(-1).values


def shrink(
    model: VisionTransformer, scores: Scores, sizes: Sizes, batches: Sequence[Tensor], *, fit: bool = True
) -> VisionTransformer:
    """The model of these sizes, fitted to what the whole one answers."""
    choice = choose(model, scores, sizes)
    small = cut(model, choice)
    if fit and batches:
        compensate(small, model, choice, batches)
    return small


def list_sizes(config: ViTConfig, kind: Kind, place: int, multiple: int) -> list[int]:
    """Sizes that a kind may have in a block, from what it is down: multiples of `multiple`, a quarter at least."""
    if kind == "blocks":
        return [1, 0] if config.depth > 1 else [1]
    whole = config.dim if kind == "dim" else getattr(config.blocks[place], FIELDS[kind])
    if (kind == "qk" and config.qk_norm) or (kind == "dim" and config.tokenizer == "normed"):
        return [whole]  # a norm over these would see other means
    unit = 1 if kind == "heads" else multiple
    least = max(math.ceil(whole * LEAST / unit), 1) * unit
    return [whole, *(size for size in range(whole // unit * unit, least - 1, -unit) if size < whole)]


def resize(sizes: Sizes, step: Step, size: int) -> Sizes:
    kind, place = step
    if kind == "dim":
        return replace(sizes, dim=size)
    blocks = list(sizes.blocks)
    was = blocks[place]
    assert was is not None
    blocks[place] = was._replace(**{FIELDS[kind]: size}) if kind != "blocks" else None
    return replace(sizes, blocks=tuple(blocks))


def size_of(sizes: Sizes, step: Step) -> int | None:
    """The size that a step changes; None where the block has left."""
    kind, place = step
    if kind == "dim":
        return sizes.dim
    block = sizes.blocks[place]
    return None if block is None else 1 if kind == "blocks" else getattr(block, FIELDS[kind])


def list_steps(config: ViTConfig, kinds: Sequence[Kind]) -> list[Step]:
    """All that may leave: the width once, the other kinds in each block."""
    return [(kind, place) for kind in kinds for place in range(1 if kind == "dim" else config.depth)]


def split_evenly(config: ViTConfig, kinds: Sequence[Kind], cost: Cost, budget: float, multiple: int) -> Sizes:
    """The same share of every kind in every block leaves; of those that meet the budget, the most that may stay."""
    steps = list_steps(config, [kind for kind in kinds if kind != "blocks"])
    options = {step: list_sizes(config, step[0], step[1], multiple) for step in steps}
    sizes = Sizes.whole(config)
    for share in (1 - i / 100 for i in range(100)):
        for step, found in options.items():
            sizes = resize(sizes, step, min(found, key=lambda size: abs(size - share * found[0])))
        if cost(sizes.config(config)) <= budget:
            return sizes
    raise InputError(BEYOND.format(cost(sizes.config(config)) / cost(config)))
