"""Ranges of activations, from a stream of calibration images.

What an observer holds does not grow with the number of images. Its range does not depend on how the images are cut into
batches, except that of `moving`, which is a mean over batches.

Legend: A candidate ranges.
"""

import math
from abc import abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor

from baselines.errors import InputError
from compress.quantization.histogram import BINS, Histogram, divergence, squared_error

ObserverName = Literal["minmax", "moving", "percentile", "mse", "entropy"]
OBSERVERS: tuple[ObserverName, ...] = get_args(ObserverName)
CANDIDATES = 100  # ranges tried in one search


def make_observer(kind: ObserverName, percentile: float = 99.99, clipping: float = 1.0) -> "Observer":
    """An observer that has seen nothing.

    Args:
        percentile: of the values that `percentile` keeps inside the range, in (50, 100].
        clipping: factor on the squared errors of clipped values, for `mse`.
    """
    if kind == "percentile":
        return Percentile(percentile)
    if kind == "mse":
        return SquaredError(clipping=clipping)
    kinds = {"minmax": Observer, "moving": Moving, "entropy": Entropy}
    return kinds[kind]()


class Observer:
    """Sees activations and chooses the range that a quantizer is to cover: here from the smallest to the largest."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf  # smallest and largest value of all

    def update(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Sees `x`, as float32: any shape, float type and device. An empty tensor changes nothing.

        Args:
            weight: of the error of each value, of the shape of `x`; 1 by default. Only `mse` asks for it.

        Raises:
            InputError: a value is not finite.
        """
        values = x.detach().flatten().float()
        if not len(values):
            return
        low, high = torch.stack(values.aminmax()).tolist()
        if not (math.isfinite(low) and math.isfinite(high)):  # aminmax passes NaN on
            raise InputError("calibration met activations that are not finite; check the images and the model")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._take(values, low, high, None if weight is None else weight.flatten())

    def range(self) -> tuple[float, float]:
        """(low, high) to be covered, never beyond the smallest and largest value; a quantizer widens it to hold 0.

        Raises:
            InputError: nothing was seen.
        """
        if self.low > self.high:
            raise InputError("calibration saw no activation; give at least one training image")
        low, high = self._choose()
        return min(max(low, self.low), self.high), min(max(high, self.low), self.high)

    def _take(self, values: Tensor, low: float, high: float, weights: Tensor | None) -> None:
        """Notes finite values, flat, at least one; `low` and `high` are theirs."""

    def _choose(self) -> tuple[float, float]:
        return self.low, self.high


class Moving(Observer):
    """Exponential moving average of each batch's smallest and largest value (Jacob et al. 2018, section 3.1)."""

    MOMENTUM = 0.9

    def __init__(self) -> None:
        super().__init__()
        self.mean: tuple[float, float] | None = None

    def _take(self, values: Tensor, low: float, high: float, weights: Tensor | None) -> None:
        old_low, old_high = self.mean or (low, high)
        keep, add = self.MOMENTUM, 1 - self.MOMENTUM
        self.mean = keep * old_low + add * low, keep * old_high + add * high

    def _choose(self) -> tuple[float, float]:
        assert self.mean is not None
        return self.mean


class Binned(Observer):
    """An observer that chooses from a histogram. Positions in it are in widths of a bin.

    Args:
        levels: of the quantizer that the range is for.
    """

    weighs = False  # whether values count by their weights

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        self.levels, self.histogram = levels, Histogram()

    def _take(self, values: Tensor, low: float, high: float, weights: Tensor | None) -> None:
        self.histogram.add(values, low, high, weights if self.weighs else None)

    def _choose(self) -> tuple[float, float]:
        if self.low == self.high:
            return self.low, self.high
        low, high = self._search(self.low / self.histogram.width, self.high / self.histogram.width)
        return low * self.histogram.width, high * self.histogram.width

    @abstractmethod
    def _search(self, low: float, high: float) -> tuple[float, float]:
        """The range, given the lowest and the highest value."""


class Percentile(Binned):
    """Leaves the outermost (100 - percentile) % of all values out, split over both ends; linear inside a bin."""

    def __init__(self, percentile: float):
        super().__init__()
        self.percentile = percentile

    def _search(self, low: float, high: float) -> tuple[float, float]:
        counts = self.histogram.counts
        cut, first = counts.sum().item() * (100 - self.percentile) / 200, self.histogram.first
        # Each end counts from outside, and so stops before a gap rather than behind it.
        return first + _depth(counts, cut), first + BINS - _depth(counts.flip(0), cut)


def _depth(counts: Tensor, cut: float) -> float:
    """How many bins, the last in part, hold the first `cut` values."""
    sums = counts.cumsum(0)
    index = int(torch.searchsorted(sums, cut, right=True))
    inside, count = cut - (sums[index] - counts[index]).item(), counts[index].item()
    return index + inside / count


class SquaredError(Binned):
    """The range with the smallest expected squared error, clipping included, of a quantizer that has 0 as a level.

    Tried are one threshold for both signs, then other lower ends, then other upper ones.

    Args:
        clipping: factor on the squared errors of clipped values.
    """

    weighs = True

    def __init__(self, levels: int = 256, clipping: float = 1.0) -> None:
        super().__init__(levels)
        self.clipping = clipping

    def _search(self, low: float, high: float) -> tuple[float, float]:
        low, high = min(low, 0.0), max(high, 0.0)
        first, last = self.histogram.first, math.floor(high)
        edges = torch.arange(first, last + 2, dtype=torch.float64)
        # The outermost bins end at the outermost values; a largest value on the inner edge of its bin keeps a sliver.
        edges[0], edges[-1] = low, max(high, last + 1e-3)
        counts = self.histogram.nonzero()[: len(edges) - 1]
        factors = torch.logspace(0, -math.log2(BINS), CANDIDATES, base=2, dtype=torch.float64)
        lows, highs, thresholds = low * factors, high * factors, max(-low, high) * factors

        def best(lows_A: Tensor, highs_A: Tensor) -> tuple[Tensor, Tensor]:
            lows_A, highs_A = torch.broadcast_tensors(lows_A, highs_A)
            chosen = squared_error(lows_A, highs_A, edges, counts, self.levels, self.clipping).argmin()
            return lows_A[chosen : chosen + 1], highs_A[chosen : chosen + 1]

        bottom, top = best((-thresholds).clamp(min=low), thresholds.clamp(max=high))
        bottom, top = best(torch.cat([bottom, lows]), top)
        bottom, top = best(bottom, torch.cat([top, highs]))
        return bottom.item(), top.item()


class Entropy(Binned):
    """The threshold beyond which to clip so that the quantized distribution diverges least (Migacz 2017, TensorRT).

    One threshold serves both signs; an end that is nearer to 0 stays where it is. As in the original, a range has at
    least as many bins as there are levels. Made for bell shapes: of peaked ones (GELU, softmax) it clips far too much.
    """

    def _search(self, low: float, high: float) -> tuple[float, float]:
        below = -self.histogram.first  # bins of negative values
        above = math.floor(high) + 1 if high >= 0 else 0
        thresholds = torch.arange(1, max(below, above) + 1)
        bins = thresholds.clamp(max=below) + thresholds.clamp(max=above)
        allowed = thresholds[bins >= self.levels]
        if not len(allowed):
            return low, high
        tried = allowed[torch.linspace(0, len(allowed) - 1, CANDIDATES).long()]
        start, stop = below - tried.clamp(max=below), below + tried.clamp(max=above)
        counts = self.histogram.nonzero()[: below + above]
        best = tried[divergence(counts, start, stop, self.levels).argmin()].item()
        return max(low, -best), min(high, best)
