"""The one rule by which two figures are called different; tables, findings, notes, plots and comparisons all ask here.

Times: the 95 % interval of their ratio leaves out 1. Accuracies: p below 0.05, of McNemar's test on the same images, or
of two proportions where two models were not compared image by image.
"""

import math
from typing import Literal

from reports.text import measured

ALPHA = 0.05
Z = 1.959964  # standard deviations to either side that hold 95 % of a normal distribution
NO_DIFFERENCE = "no significant difference"
RULE = (
    "A speed difference is significant if the 95 % interval of the ratio excludes 1, an accuracy difference if "
    f"p < {ALPHA}."
)
Speed = Literal["faster", "slower", "no significant difference", ""]
Accuracy = Literal["better", "worse", "no significant difference", ""]
Ratio = tuple[float | None, float | None, float | None]  # of two times, with its 95 % interval


def judge_speedup(ratio: Ratio) -> Speed:
    """Of the time before over the time after; empty where the interval is not known, or nothing was compared."""
    middle, low, high = map(measured, ratio)
    if middle is None or low is None or high is None or low == high == 1:
        return ""
    return "faster" if low > 1 else "slower" if high < 1 else NO_DIFFERENCE


def judge_slowdown(ratio: Ratio) -> Speed:
    """The same of the time after over the time before."""
    mirrored: dict[Speed, Speed] = {"faster": "slower", "slower": "faster"}
    verdict = judge_speedup(ratio)
    return mirrored.get(verdict, verdict)


def judge_accuracy(change: float | None, p: float | None) -> Accuracy:
    """Of a change of accuracy, and the p of one as large where there is none; empty where either is not known."""
    change, p = measured(change), measured(p)
    if change is None or p is None:
        return ""
    return NO_DIFFERENCE if p >= ALPHA or change == 0 else "better" if change > 0 else "worse"


def compare_proportions(share: float | None, n: int | None, other: float | None, m: int | None) -> float | None:
    """Two-sided p of two shares of `n` and `m` images that are taken to be different ones.

    On the same images that errs on the side of seeing no difference. None where anything is not known.
    """
    share, other = measured(share), measured(other)
    if share is None or other is None or not n or not m:
        return None
    pooled = (share * n + other * m) / (n + m)
    variance = pooled * (1 - pooled) * (1 / n + 1 / m)
    return 1.0 if variance <= 0 else math.erfc(abs(share - other) / math.sqrt(2 * variance))


def divide(above: Ratio, below: Ratio, spread: float = 0.0) -> Ratio:
    """One ratio over another, of independent errors: interval from both of theirs (MOVER, Zou and Donner 2008).

    Args:
        spread: standard deviation of a further error, of the logarithm.
    """
    (a, a_low, a_high), (b, b_low, b_high) = (tuple(map(measured, ratio)) for ratio in (above, below))
    if not a or not b:
        return None, None, None
    if not (a_low and a_high and b_low and b_high):
        return a / b, None, None
    down = math.hypot(math.log(a / a_low), math.log(b_high / b), Z * spread)
    up = math.hypot(math.log(a_high / a), math.log(b / b_low), Z * spread)
    return a / b, a / b * math.exp(-down), a / b * math.exp(up)
