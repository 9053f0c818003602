"""Intervals and tests; scipy does the mathematics."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
Z95 = 1.959964  # standard deviations


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share."""
    from scipy import stats  # slow to import, and no worker needs it

    interval = stats.binomtest(right, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> float:
    """Two-sided exact McNemar p-value of two models' right answers (n,) bool on the same images."""
    from scipy import stats

    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def paired_change(right: np.ndarray, before: np.ndarray) -> tuple[float, float, float]:
    """Share of right answers (n,) bool minus that before, on the same images, and its 95 % interval.

    The interval is that of Agresti and Min (2005): Wald's, with half an image added to each of the four counts.
    """
    total, won, lost = len(right), int((right & ~before).sum()), int((before & ~right).sum())
    middle = (won - lost) / (total + 2)
    deviation = float(np.sqrt((won + lost + 1) / (total + 2) - middle**2) / np.sqrt(total + 2))
    change = (won - lost) / total
    return change, min(middle - Z95 * deviation, change), max(middle + Z95 * deviation, change)


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median of values in order of time, and its 95 % bootstrap percentile interval.

    Neighbours may be alike, since what disturbs one can last for the next too. So the values are drawn one by one and
    in blocks as long as the square root of their number (circular block bootstrap, Politis and Romano 1992), and the
    wider interval counts. Fixed seed: the same samples give the same row.
    """
    array = np.asarray(values)
    bounds = [_bootstrap(array, length) for length in (1, max(round(len(array) ** 0.5), 1))]
    return float(np.median(array)), float(min(low for low, _ in bounds)), float(max(high for _, high in bounds))


def _bootstrap(array: np.ndarray, length: int) -> np.ndarray:
    """2.5 and 97.5 % quantiles of the median over blocks of that length, drawn at random."""
    n = len(array)
    starts = np.random.default_rng(0).integers(0, n, (RESAMPLES, -(-n // length)))
    drawn = (starts[:, :, None] + np.arange(length)) % n
    return np.quantile(np.median(array[drawn.reshape(RESAMPLES, -1)[:, :n]], axis=1), [0.025, 0.975])
