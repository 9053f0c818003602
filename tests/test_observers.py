"""Observers of activations: exact counts whatever the order, ranges that hold, and none that hurts."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baselines.errors import InputError
from compress.quantization.histogram import BINS, divergence, squared_error
from compress.quantization.observers import OBSERVERS, Percentile, SquaredError, make_observer

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
BATCHES = st.lists(st.lists(FLOATS | st.floats(-8, 8, width=32), max_size=12), min_size=1, max_size=6)
SHAPES = {
    "normal": lambda x: x,
    "outlier": lambda x: torch.cat([x, torch.tensor([300.0])]),
    "gelu": torch.nn.functional.gelu,
    "relu": torch.relu,
    "one-sided": lambda x: x.exp(),
    "all negative": lambda x: -x.exp() - 2,
    "off centre": lambda x: x + 9,
}


def normal(count: int = 20_000) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0))


def quantised(x: Tensor, low: float, high: float, levels: int) -> Tensor:
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / (levels - 1)
    zero = round(-low / step)
    return ((x.double() / step).round() + zero).clamp(0, levels - 1).sub(zero) * step


def true_error(x: Tensor, low: float, high: float, levels: int = 256) -> float:
    return (quantised(x, low, high, levels) - x).square().mean().item()


@settings(max_examples=150, deadline=None)
@given(BATCHES)
def test_every_value_is_counted_in_the_bin_that_covers_it_however_batches_are_cut(batches: list[list[float]]) -> None:
    cut, whole = SquaredError(256), SquaredError(256)
    for batch in batches:
        cut.update(torch.tensor(batch))
    values = [x for batch in batches for x in batch]
    whole.update(torch.tensor(values))
    found = cut.histogram
    bins = {found.first + i: count for i, count in enumerate(found.counts.tolist()) if count}
    assert bins == Counter(math.floor(math.ldexp(x, -found.exponent)) for x in values)
    assert len(found.counts) == BINS
    assert (found.exponent, found.first, found.zeros) == (
        whole.histogram.exponent,
        whole.histogram.first,
        whole.histogram.zeros,
    )
    assert found.counts.equal(whole.histogram.counts)


@pytest.mark.parametrize("kind", [kind for kind in OBSERVERS if kind != "moving"])
@pytest.mark.parametrize("shape", SHAPES)
def test_range_does_not_depend_on_batches_and_stays_inside(kind: str, shape: str) -> None:
    x = SHAPES[shape](normal())
    whole, cut = make_observer(kind), make_observer(kind)
    whole.update(x)
    for batch in x.sort().values.split([1, 7, 0, len(x) - 1008, 1000]):
        cut.update(batch.reshape(1, -1, 1))
    low, high = whole.range()
    assert (low, high) == cut.range()
    assert x.min().item() <= low < high <= x.max().item()


def test_moving_average_of_each_batch() -> None:
    observer = make_observer("moving")
    observer.update(torch.tensor([-1.0, 2.0]))
    observer.update(torch.tensor([-3.0, 1.0]))
    assert observer.range() == pytest.approx((-1.2, 1.9))
    observer.update(torch.tensor([0.0, 11.0]))
    assert observer.range() == pytest.approx((-1.08, 2.81))


@settings(max_examples=60, deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=300), st.sampled_from([60.0, 87.5, 99.0, 99.75]))
def test_percentile_is_numpys_within_a_bin(values: list[float], percentile: float) -> None:
    observer = Percentile(percentile)
    observer.update(torch.tensor(values))
    x, share = np.array(values, np.float64), 1 - (100 - percentile) / 200
    low, high = observer.range()
    assert abs(high - np.quantile(x, share, method="inverted_cdf")) <= observer.histogram.width
    assert abs(low + np.quantile(-x, share, method="inverted_cdf")) <= observer.histogram.width


@given(st.lists(FLOATS, min_size=1, max_size=50))
def test_percentile_100_is_minmax(values: list[float]) -> None:
    observer = make_observer("percentile", percentile=100)
    observer.update(torch.tensor(values))
    assert observer.range() == (min(values), max(values))


@pytest.mark.parametrize("levels", [16, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_mse_is_never_worse_than_minmax(shape: str, levels: int) -> None:
    x = SHAPES[shape](normal())
    observer = SquaredError(levels)
    observer.update(x)
    error, before = true_error(x, *observer.range(), levels), true_error(x, x.min().item(), x.max().item(), levels)
    assert error <= before * 1.01 + observer.histogram.width**2 / 12
    if levels == 16 and shape == "normal":
        assert error < before * 0.7


def test_mse_clips_one_outlier_among_many_values() -> None:
    x = normal(1_000_000)
    observer = make_observer("mse")
    for _ in range(16):
        observer.update(x)
    observer.update(torch.tensor([1000.0]))
    low, high = observer.range()
    # N T^2 / (12 * 255^2) + (1000 - T)^2 is least where T, the upper end, is 46: far beyond the other values.
    assert -6 <= low < -2 < 2 < high < 60
    error = true_error(x, low, high) + (1000 - high) ** 2 / (16 * len(x))
    assert error < 0.1 * true_error(x, -5, 1000)


def test_squared_error_is_that_of_evenly_spread_values() -> None:
    ranges = torch.tensor([[-3.0, 5.0], [-0.3, 1.0], [0.0, 2.0], [-2.0, 0.0]], dtype=torch.float64)
    edges = torch.tensor([-2.0, -1.0, 0.5, 2.5, 4.0], dtype=torch.float64)
    one = torch.eye(4, dtype=torch.float64)  # value in each bin
    got = torch.stack([squared_error(ranges[:, 0], ranges[:, 1], edges, counts, 8) for counts in one], 1)
    for i, (low, high) in enumerate(ranges.tolist()):
        for j, (left, right) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
            x = torch.linspace(left, right, 20_001, dtype=torch.float64)
            assert got[i, j].item() == pytest.approx(true_error(x, low, high, 8), rel=1e-3)


def test_entropy_cuts_a_far_outlier_and_leaves_a_bell_alone() -> None:
    x = normal()
    plain, spoilt = make_observer("entropy"), make_observer("entropy")
    plain.update(x)
    spoilt.update(torch.cat([x, torch.tensor([1000.0])]))
    assert plain.range()[1] > 0.8 * x.max()
    assert spoilt.range()[0] == x.min()
    assert spoilt.range()[1] < 150


def test_divergence_by_hand() -> None:
    counts = torch.tensor([1.0, 0, 2, 4, 0, 3, 5, 0, 1], dtype=torch.float64)
    start, stop = torch.tensor([0, 2, 1]), torch.tensor([9, 7, 8])
    for a, b, got in zip(start.tolist(), stop.tolist(), divergence(counts, start, stop, 3).tolist(), strict=True):
        inside = counts[a:b]
        reference = inside.clone()
        reference[0] += counts[:a].sum()
        reference[-1] += counts[b:].sum()
        even = torch.zeros(b - a, dtype=torch.float64)
        groups = torch.arange(b - a) * 3 // (b - a)
        for group in range(3):
            member = (groups == group) & (inside > 0)
            even[member] = inside[groups == group].sum() / member.sum()
        spread = (1 - 1e-4) * even / inside.sum() + 1e-4 / (b - a)
        p = reference / counts.sum()
        assert got == pytest.approx((torch.xlogy(p, p) - torch.xlogy(p, spread)).sum().item(), rel=1e-9)


@pytest.mark.parametrize("kind", OBSERVERS)
def test_holds_no_more_after_many_updates(kind: str) -> None:
    def held(thing: object) -> int:
        if isinstance(thing, Tensor):
            return thing.numel()
        if isinstance(thing, list | tuple):
            return sum(map(held, thing))
        return sum(map(held, vars(thing).values())) if hasattr(thing, "__dict__") else 1

    observer = make_observer(kind)
    observer.update(normal(100))
    once = held(observer)
    for i in range(99):
        observer.update(normal(100) * 1.2**i)
    assert held(observer) == once


@pytest.mark.parametrize("kind", OBSERVERS)
def test_awkward_activations(kind: str) -> None:
    def seen(*batches: Tensor) -> tuple[float, float]:
        observer = make_observer(kind)
        for batch in batches:
            observer.update(batch)
        return observer.range()

    empty, x = torch.empty(0, 3), normal()
    for value in (0.0, 2.5, -7.0, 1e-30, 1e30):
        exact = torch.tensor(value).item()
        assert seen(empty, torch.full((3, 4), value), empty) == (exact, exact)
        assert seen(torch.tensor(value)) == (exact, exact)
    for factor in (1e-30, 1e-3, 1e30):
        low, high = seen(x * factor)
        assert -5 * factor < low < -2 * factor < 2 * factor < high < 5 * factor
    low, high = seen(x, torch.tensor([1e4, -1e4]))
    assert -1e4 <= low < 0 < high <= 1e4
    for dtype in (torch.float16, torch.bfloat16):
        assert seen(x.to(dtype)) == seen(x.to(dtype).float())
    assert seen(x.double().requires_grad_()) == seen(x)


def test_faults() -> None:
    for kind in OBSERVERS:
        observer = make_observer(kind)
        observer.update(torch.empty(0))
        with pytest.raises(InputError, match="at least one training image"):
            observer.range()
        for value in (math.nan, math.inf, -math.inf):
            with pytest.raises(InputError, match="not finite"):
                observer.update(torch.tensor([1.0, value, 2.0]))
