"""How much leaves where: the sizes with which a model's answers stay closest to those of the whole, at a budget.

What a size costs is measured: the structures that matter least leave one kind in one block at a time, the next Linear
layer is fitted to the rest, and the mean divergence of the answers is taken on training images. These costs are added
up, as if they did not depend on one another, and a greedy takes the step that costs least for what it saves, again and
again, until the budget is met (as `baselines/schedule.py` does for tokens). Kinds and blocks are compared by that cost
alone, never by scores of importance, which mean something else in each.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from baselines.errors import InputError
from baselines.output import EncoderOutput
from baselines.schedule import mean_divergence
from baselines.vit import Block, VisionTransformer, ViTConfig
from compress.pruning.compensation import fit_branch, run_halves
from compress.pruning.importance import Scores
from compress.pruning.sizes import (
    BEYOND,
    Cost,
    Kind,
    Sizes,
    Step,
    choose,
    list_sizes,
    list_steps,
    resize,
    shrink,
    size_of,
)
from compress.pruning.structure import cut

POINTS = 4  # sizes of a kind in a block that are measured; between them costs are interpolated
TOKENS = 2**13  # of the images on which costs are measured, at least `FEW` images
FEW = 32

Table = dict[Step, list[tuple[int, float]]]  # by size, from the whole down, what it costs in nats


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


def _spread(options: list[int], count: int) -> list[int]:
    """Some of them, evenly, the last one among them."""
    if len(options) <= count:
        return options
    return [options[math.ceil((i + 1) * len(options) / count) - 1] for i in range(count)]


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


def answer(model: VisionTransformer, x_BND: Tensor, first: int) -> Tensor:
    """Tokens before the block `first` -> logarithms of the classes' probabilities (B, classes) float64."""
    for block in list(model.encoder.blocks)[first:]:
        x_BND = block(x_BND)
    return model.finish(EncoderOutput(x_BND)).logits.double().log_softmax(1)


def find(config: ViTConfig, table: Table, cost: Cost, budget: float, multiple: int) -> Sizes:
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
            raise InputError(BEYOND.format(spent / cost(config)))
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
    cost: Cost,
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
