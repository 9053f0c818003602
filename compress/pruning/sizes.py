"""How much leaves where: the sizes with which a model's answers stay closest to those of the whole, at a budget.

What a size costs is measured: the structures that matter least leave one kind in one block at a time, the next Linear
layer is fitted to the rest, and the mean divergence of the answers is taken on training images. These costs are added
up, as if they did not depend on one another, and a greedy takes the step that costs least for what it saves, again and
again, until the budget is met (as `baselines/schedule.py` does for tokens). Kinds and blocks are compared by that cost
alone, never by scores of importance, which mean something else in each.

Legend: D width, L blocks.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from baselines.errors import InputError
from baselines.output import EncoderOutput
from baselines.schedule import mean_divergence
from baselines.vit import Block, BlockSizes, VisionTransformer, ViTConfig
from compress.pruning.compensation import compensate, fit_branch, run_halves
from compress.pruning.importance import Scores
from compress.pruning.structure import Choice, Kept, cut, make_config

Kind = Literal["heads", "qk", "v", "mlp", "dim", "blocks"]
FIELDS: dict[str, str] = {"heads": "heads", "qk": "qk_dim", "v": "v_dim", "mlp": "mlp_dim"}
POINTS = 4  # sizes of a kind in a block that are measured; between them costs are interpolated
LEAST = 0.25  # share of a kind that stays in a block
TOKENS = 2**13  # of the images on which costs are measured, at least `FEW` images
FEW = 32


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


Step = tuple[Kind, int]  # what leaves, and in which block
Table = dict[Step, list[tuple[int, float]]]  # by size, from the whole down, what it costs in nats


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


@torch.no_grad()
def measure(
    model: VisionTransformer, scores: Scores, batches: Sequence[Tensor], kinds: Sequence[Kind], multiple: int
) -> Table:
    """What each size costs, when it alone changes and the next layer is fitted to it."""
    count = max(TOKENS // model.config.tokens, FEW)
    batches = list(torch.cat(list(batches))[:count].split(64))
    before, table = Sizes.whole(model.config), {}
    states = [[model.embed(images) for images in batches]]  # before each block, and after the last
    for block in model.encoder.blocks:
        states.append([block(x) for x in states[-1]])
    answers = [answer(model, x, len(model.encoder.blocks)) for x in states[-1]]
    for step in list_steps(model.config, kinds):
        kind, place = step
        options = list_sizes(model.config, kind, place, multiple)
        worst, costs = 0.0, [(options[0], 0.0)]
        for size in _spread(options[1:], POINTS):
            sizes = resize(before, step, size)
            if kind == "dim":
                small = shrink(model, scores, sizes, batches)
                made = [answer(small, small.embed(images), 0) for images in batches]
            else:
                after = states[place] if kind == "blocks" else _run_cut(model, scores, sizes, step, states[place])
                made = [answer(model, x, place + 1) for x in after]
            worst = max(worst, mean_divergence(made, answers))  # less never costs less
            costs.append((size, worst))
        table[step] = costs
    return table


def answer(model: VisionTransformer, x_BND: Tensor, first: int) -> Tensor:
    """Tokens before the block `first` -> logarithms of the classes' probabilities (B, classes) float64."""
    for block in list(model.encoder.blocks)[first:]:
        x_BND = block(x_BND)
    return model.finish(EncoderOutput(x_BND)).logits.double().log_softmax(1)


def _run_cut(model: VisionTransformer, scores: Scores, sizes: Sizes, step: Step, inputs: list[Tensor]) -> list[Tensor]:
    """Tokens after a block of which something left."""
    kind, place = step
    small, whole = (m.encoder.blocks[place] for m in (cut(model, choose(model, scores, sizes)), model))
    assert isinstance(small, Block)
    assert isinstance(whole, Block)
    between, after = run_halves(whole, inputs)
    if kind == "mlp":
        return fit_branch(small.norm2, small.mlp, small.mlp.fc2, small.scale2, between, after)
    fit_branch(small.norm1, small.attn, small.attn.proj, small.scale1, inputs, between)
    return [small(x) for x in inputs]


def find(config: ViTConfig, table: Table, cost: Callable[[ViTConfig], float], budget: float, multiple: int) -> Sizes:
    """The sizes whose costs add up to least, of those that a greedy meets on its way to the budget.

    Args:
        table: from `measure`.
        cost: of a geometry, such as its MACs.

    Raises:
        InputError: the smallest sizes still cost more.
    """
    sizes = Sizes.whole(config)
    options = {step: list_sizes(config, step[0], step[1], multiple) for step in table}
    while (spent := cost(sizes.config(config))) > budget:
        tried = [each for step in table for each in _smaller(sizes, step, options[step], table[step])]
        prices = [(loss / (spent - left), new) for loss, new in tried if (left := cost(new.config(config))) < spent]
        if not prices:
            share = spent / cost(config)
            raise InputError(f"the amount is out of reach: {share:.1%} remain when all has left that can; ask for less")
        sizes = min(prices, key=lambda each: each[0])[1]
    return _fill(sizes, config, table, options, cost, budget)


def _smaller(
    sizes: Sizes, step: Step, options: list[int], costs: list[tuple[int, float]]
) -> Iterator[tuple[float, Sizes]]:
    """All smaller sizes that a step can lead to, each behind what it costs more."""
    now = size_of(sizes, step)
    if now is None or (step[0] == "blocks" and sum(each is not None for each in sizes.blocks) == 1):
        return
    for size in options:
        if size < now:
            yield interpolate(costs, size) - interpolate(costs, now), resize(sizes, step, size)


def _fill(
    sizes: Sizes,
    config: ViTConfig,
    table: Table,
    options: dict[Step, list[int]],
    cost: Callable[[ViTConfig], float],
    budget: float,
) -> Sizes:
    """What the last step took too much comes back, where that helps most."""
    while True:
        larger = []
        for step in table:
            now = size_of(sizes, step)
            if now is not None and step[0] != "blocks":
                for size in options[step]:
                    if size > now and cost((new := resize(sizes, step, size)).config(config)) <= budget:
                        larger.append((interpolate(table[step], now) - interpolate(table[step], size), new))
        if not larger or max(larger, key=lambda each: each[0])[0] <= 0:
            return sizes
        sizes = max(larger, key=lambda each: each[0])[1]


def interpolate(costs: list[tuple[int, float]], size: int) -> float:
    """Between the sizes that were measured, by a straight line."""
    for (larger, low), (smaller, high) in itertools.pairwise(costs):
        if smaller <= size <= larger:
            return low + (high - low) * (larger - size) / (larger - smaller)
    return costs[0][1] if size >= costs[0][0] else costs[-1][1]


def split_evenly(
    config: ViTConfig, kinds: Sequence[Kind], cost: Callable[[ViTConfig], float], budget: float, multiple: int
) -> Sizes:
    """The same share of every kind in every block leaves; of those that meet the budget, the most that may stay."""
    steps = list_steps(config, [kind for kind in kinds if kind != "blocks"])
    options = {step: list_sizes(config, step[0], step[1], multiple) for step in steps}
    for share in (1 - i / 100 for i in range(100)):
        sizes = Sizes.whole(config)
        for step, found in options.items():
            sizes = resize(sizes, step, min(found, key=lambda size: abs(size - share * found[0])))
        if cost(sizes.config(config)) <= budget:
            return sizes
    raise InputError("the amount is out of reach: more remains when all has left that can; ask for less")


def _spread(options: list[int], count: int) -> list[int]:
    """Some of them, evenly, the last one among them."""
    if len(options) <= count:
        return options
    return [options[math.ceil((i + 1) * len(options) / count) - 1] for i in range(count)]


def shrink(
    model: VisionTransformer, scores: Scores, sizes: Sizes, batches: Sequence[Tensor], *, fit: bool = True
) -> VisionTransformer:
    """The model of these sizes, fitted to what the whole one answers."""
    choice = choose(model, scores, sizes)
    small = cut(model, choice)
    if fit and batches:
        compensate(small, model, choice, batches)
    return small
