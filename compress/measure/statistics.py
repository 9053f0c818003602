"""Intervals and tests; scipy does the mathematics."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share."""
    interval = stats.binomtest(right, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> float:
    """Two-sided exact McNemar p-value of two models' right answers (n,) bool on the same images."""
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median and its 95 % bootstrap percentile interval; fixed seed, so that the same samples give the same row."""
    array = np.asarray(values)
    if len(array) < 2 or np.ptp(array) == 0:
        middle = float(np.median(array))
        return middle, middle, middle
    result = stats.bootstrap((array,), np.median, method="percentile", rng=np.random.default_rng(0), n_resamples=4000)
    return float(np.median(array)), float(result.confidence_interval.low), float(result.confidence_interval.high)
