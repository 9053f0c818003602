"""A histogram of a stream of values whose range is not known beforehand, and what quantizing it loses.

Legend: A candidate ranges, K bins, G levels of the quantizer.
"""

import math

import torch
from torch import Tensor

BINS = 2048
SMALLEST = -126  # exponent of the narrowest bin: that of the smallest normal float32
CHUNK = 1 << 17  # values binned at a time: the indices stay in cache and cost no memory
SMOOTH = 1e-4  # share of the quantized distribution that is spread evenly, so that no divergence is infinite


class Histogram:
    """Exact counts, or sums of weights, in bins of one width, a power of two: bin k covers [k, k + 1) widths.

    The width is the smallest with which BINS bins reach from the lowest value to the highest, and to 0. When a value
    falls outside, bins merge in pairs until it fits. As bins start at multiples of the width, the counts are then those
    that the wider bins would have found: the order and the cuts of what was seen leave no trace.
    """

    def __init__(self) -> None:
        self.exponent, self.first = SMALLEST, 0  # of the width; k of counts[0]
        self.low = self.high = 0.0
        self.counts = torch.zeros(BINS, dtype=torch.float64)  # whole numbers are exact in it up to 2^53
        self.zeros = 0.0  # of values that are 0; it is in counts too

    @property
    def width(self) -> float:
        return math.ldexp(1.0, self.exponent)

    def add(self, values: Tensor, low: float, high: float, weights: Tensor | None = None) -> None:
        """Counts float32 values, flat; `low` and `high` are their smallest and largest.

        Args:
            weights: of the values; 1 each by default.
        """
        self._cover(low, high)
        found = torch.zeros(BINS, dtype=torch.float64, device=values.device)
        parts = [None] * -(-len(values) // CHUNK) if weights is None else weights.double().split(CHUNK)
        for chunk, part in zip(values.split(CHUNK), parts, strict=True):
            if self.exponent > 0:  # in float32 the quotient of a tiny negative value could become 0
                chunk = chunk.double()
            index = (chunk * (1 / self.width)).floor_().sub_(self.first).int()
            found += torch.bincount(index, part, BINS)
        zero = values == 0
        self.zeros += float(zero.sum() if weights is None else weights.double()[zero].sum())
        self.counts += found.cpu()

    def nonzero(self) -> Tensor:
        """Counts (K,) without values that are 0, as float64: a quantizer keeps those, whatever its range."""
        counts = self.counts.clone()
        counts[-self.first] -= self.zeros
        return counts.clamp_(min=0)

    def _cover(self, low: float, high: float) -> None:
        self.low, self.high = min(self.low, low), max(self.high, high)
        before, bins = self.exponent, self.first + torch.arange(BINS)
        while self._bin(self.high) - self._bin(self.low) >= BINS:
            self.exponent += 1
        self.first = self._bin(self.low)
        filled = self.counts > 0
        merged = (bins[filled] >> (self.exponent - before)) - self.first
        self.counts = torch.zeros_like(self.counts).index_add_(0, merged, self.counts[filled])

    def _bin(self, x: float) -> int:
        return math.floor(math.ldexp(x, -self.exponent))


def squared_error(
    low_A: Tensor, high_A: Tensor, edges: Tensor, counts_K: Tensor, levels: int, clipping: float = 1.0
) -> Tensor:
    """Sum (A,) of squared errors that uniform quantizers of these ranges make, values being spread evenly in each bin.

    With n the level nearest to t, in steps, the integral of (t - n)^2 from 0 to t is n / 12 + (t - n)^3 / 3, also where
    n is the last level and t far beyond it. `edges` are those of the bins, K + 1 of them.

    Args:
        clipping: factor on the errors of values beyond the last levels.
    """
    step = (high_A - low_A)[:, None] / (levels - 1)
    zero = (-low_A[:, None] / step).round()
    t = edges / step
    first, last = -zero, levels - 1 - zero
    n = t.round().clamp_(first, last)
    factor = torch.where((t > last) | (t < first), clipping, 1.0)
    beside = t.sub_(n)
    integral = n.div_(12).add_(beside * beside * beside * factor, alpha=1 / 3)
    return (integral.diff() @ (counts_K / edges.diff())) * step[:, 0] ** 3


def divergence(counts_K: Tensor, start_A: Tensor, stop_A: Tensor, levels: int) -> Tensor:
    """Kullback-Leibler divergence (A,) of what quantizing the bins from `start` to before `stop` leaves of a histogram.

    The reference has what is outside in its two end bins. The quantized one lacks it, and is even over the filled bins
    of each of `levels` groups of neighbours, so that sums over the groups are all that is needed.
    """

    def before(x_K: Tensor) -> Tensor:
        return torch.cat([x_K.new_zeros(1), x_K.cumsum(0)])

    sums, logs = before(counts_K), before(torch.xlogy(counts_K, counts_K))
    bins_A, total = stop_A - start_A, sums[-1]
    edges_AG = start_A[:, None] - (-bins_A[:, None] * torch.arange(levels + 1) // levels)
    mass_AG = sums[edges_AG].diff()
    filled_AG = before((counts_K > 0).double())[edges_AG].diff()
    spread_A = SMOOTH / bins_A
    inside_A = mass_AG.sum(1).clamp(min=1)
    quantized_AG = (1 - SMOOTH) * mass_AG / filled_AG.clamp(min=1) / inside_A[:, None] + spread_A[:, None]
    own, cross = logs[stop_A] - logs[start_A], torch.xlogy(mass_AG, quantized_AG).sum(1)
    for end_A, group, outside_A in ((start_A, 0, sums[start_A]), (stop_A - 1, -1, total - sums[stop_A])):
        count_A = counts_K[end_A]
        both_A = count_A + outside_A
        own = own + torch.xlogy(both_A, both_A) - torch.xlogy(count_A, count_A)
        cross = cross + torch.xlogy(outside_A, torch.where(count_A > 0, quantized_AG[:, group], spread_A))
    return (own - cross) / total - total.log()
