"""How many patches leave in each block: the numbers with which a model's answers stay closest to those of all tokens.

DiffRate (Chen et al. 2023, arXiv 2305.17997) showed that these numbers matter as much as who leaves, and learns them by
gradient, through a relaxation in which tokens are masked. Here they are searched, with forward passes of the encoder
that ships, so that nothing is relaxed; weights stay as they are, and no labels are needed.

- Greedy: beginning with all tokens, a unit more leaves in the block where that costs the least damage for the MACs it
  saves, until the budget is met. The unit is a twentieth of the patches.
- Exchange: a unit comes back in one block and as many as pay for it leave in another, where that does less damage; with
  ever smaller units, down to a single patch.

Legend: L blocks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.errors import InputError
from baselines.vit import VisionTransformer

STEPS = 20  # in which the patches of an image leave at most: a unit is so many parts of them
Counts = tuple[int, ...]  # patches that leave in each block


@dataclass
class Search:
    """What is searched in; both functions take the patches that leave in each block (L,)."""

    possible: Callable[[Counts], Counts]  # the nearest that the method can do
    macs: Callable[[Counts], int]  # of an image
    damage: Callable[[Counts], float]  # 0 with all tokens
    known: dict[Counts, float] = field(default_factory=dict)

    def judge(self, leaving: Counts) -> float:
        if leaving not in self.known:
            self.known[leaving] = self.damage(leaving)
        return self.known[leaving]

    def shift(self, leaving: Counts, block: int, by: int) -> Counts | None:
        """With so many more, or less, in a block; None where that changes nothing."""
        wanted = list(leaving)
        wanted[block] = max(wanted[block] + by, 0)
        shifted = self.possible(tuple(wanted))
        return shifted if shifted != leaving else None


def find_schedule(
    search: Search, depth: int, patches: int, budget: float, unit: int = 1, known: Sequence[Counts] = ()
) -> Counts:
    """Patches that leave in each block, so that an image costs `budget` MACs at most.

    Args:
        patches: of an image.
        unit: patches that leave together, at least.
        known: schedules to begin with, where one is better than what greed finds.

    Raises:
        InputError: even the most that can leave costs more.
    """
    step = max(round(patches / STEPS), unit)
    begun = [_leave_greedily(search, (0,) * depth, budget, step)]
    begun += [each for each in known if search.macs(each) <= budget]
    leaving = min(begun, key=search.judge)
    while step >= unit:
        leaving = _exchange(search, leaving, budget, step)
        step //= 2
    return leaving


def _leave_greedily(search: Search, leaving: Counts, budget: float, step: int) -> Counts:
    while (macs := search.macs(leaving)) > budget:
        further = [found for block in range(len(leaving)) if (found := search.shift(leaving, block, step))]
        further = [each for each in further if search.macs(each) < macs]
        if not further:
            share = macs / search.macs((0,) * len(leaving))
            raise InputError(f"target_macs is out of reach: {share:.1%} of the MACs remain when all leave that can")
        before = search.judge(leaving)
        price = [(search.judge(each) - before) / (macs - search.macs(each)) for each in further]
        leaving = further[price.index(min(price))]
    return leaving


def _exchange(search: Search, leaving: Counts, budget: float, step: int) -> Counts:
    """Patches change the block in which they leave, as long as that does less damage."""
    while True:
        leaving = _fill(search, leaving, budget)
        tried = _exchanges(search, leaving, budget, step)
        better = next((each for each in tried if search.judge(each) < search.judge(leaving)), None)
        if better is None:
            return leaving
        leaving = better


def _exchanges(search: Search, leaving: Counts, budget: float, step: int) -> Iterator[Counts]:
    """What one exchange makes of a schedule: those that should do less damage, to first order, the best first."""
    blocks, now, macs = range(len(leaving)), search.judge(leaving), search.macs(leaving)
    back = {block: found for block in blocks if (found := search.shift(leaving, block, -step))}
    away = {block: found for block in blocks if (found := search.shift(leaving, block, step))}
    price = {block: (search.judge(each) - now) / max(macs - search.macs(each), 1) for block, each in away.items()}
    gain = {block: now - search.judge(each) for block, each in back.items()}
    pairs = [(a, b) for a in back for b in away if a != b]
    change = {(a, b): price[b] * (search.macs(back[a]) - macs) - gain[a] for a, b in pairs}
    for first, second in sorted(change, key=change.__getitem__):
        if change[first, second] >= 0:
            return
        each: Counts | None = back[first]
        while each is not None and search.macs(each) > budget:
            each = search.shift(each, second, 1)
        if each is not None and each != leaving:
            yield _fill(search, each, budget)


def _fill(search: Search, leaving: Counts, budget: float) -> Counts:
    """Patches come back one by one as long as the budget allows it, where that helps most."""
    while True:
        blocks = range(len(leaving))
        fewer = [each for block in blocks if (each := search.shift(leaving, block, -1))]
        fitting = [each for each in fewer if search.macs(leaving) < search.macs(each) <= budget]
        if not fitting:
            return leaving
        leaving = min(fitting, key=search.judge)


def clip_counts(leaving: Counts, most: int) -> Counts:
    """As many as asked in each block, and `most` in all."""
    clipped: list[int] = []
    for each in leaving:
        clipped.append(min(each, most - sum(clipped)))
    return tuple(clipped)


def mean_divergence(after: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """Mean Kullback-Leibler divergence, in nats, from logarithms of probabilities, each (B, classes)."""
    pairs = zip(after, before, strict=True)
    divergences = [F.kl_div(new, old, reduction="none", log_target=True).sum(1) for new, old in pairs]
    return torch.cat(divergences).mean().item()


class Damage:
    """How far a model's answers are from what they were: mean Kullback-Leibler divergence, in nats."""

    def __init__(self, model: VisionTransformer, batches: Sequence[Tensor], reduce: Callable[[Counts], None]):
        """Asks the model as it is.

        Args:
            batches: normalized images, each (B, C, height, width), on the model's device.
            reduce: makes the model let so many patches leave.
        """
        self.model, self.batches, self.reduce = model, batches, reduce
        self.before = self._answer()

    def __call__(self, leaving: Counts) -> float:
        self.reduce(leaving)
        return mean_divergence(self._answer(), self.before)

    @torch.inference_mode()
    def _answer(self) -> list[Tensor]:
        """Logarithms of the classes' probabilities, (B, classes) for each batch."""
        model = self.model.eval()
        return [model(images).double().log_softmax(1) for images in self.batches]
