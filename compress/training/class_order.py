"""In which order a training numbered its class folders, where its checkpoint does not say.

torchvision sorts them by code point (1, 10, 2; B before a), timm by natural order (1, 2, 10; a before B), others by
number. One order that is not the model's gives wrong answers without an error, so labelled images decide.

Legend: n images, C classes.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from compress.measure.statistics import mcnemar

SURE = 1e-6  # p-value below which another order is taken: a wrong one only loses right answers


@dataclass(frozen=True)
class Trial:
    """How well a model knows some labelled images, its classes taken to be in one order."""

    order: tuple[str, ...]
    called: str
    normalization: str  # that suits the images best
    right: dict[str, np.ndarray]  # for each normalization, (n,) bool

    @property
    def best(self) -> np.ndarray:
        return self.right[self.normalization]


def list_orders(classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Orders of class names other than the one they are in, by what they are called."""
    orders = {
        "natural": sorted(classes, key=_natural_key),
        "code point": sorted(classes),
        "lower-case": sorted(classes, key=str.lower),
    }
    with suppress(ValueError):
        orders["numeric"] = sorted(classes, key=float)
    different: dict[tuple[str, ...], str] = {}
    for name, order in orders.items():
        if tuple(order) != tuple(classes):
            different.setdefault(tuple(order), name)
    return {name: order for order, name in different.items()}


def try_order(
    classes: Sequence[str], called: str, order: tuple[str, ...], answers: dict[str, Tensor], labels: Tensor
) -> Trial:
    """What the model knows where `order` is that of its classes.

    Args:
        classes: of the data set, by label.
        answers: logits (n, C) for each normalization.
        labels: (n,) of the images.
    """
    position = {name: index for index, name in enumerate(order)}
    expected = torch.tensor([position[name] for name in classes])[labels]
    losses = {name: F.cross_entropy(logits, expected).item() for name, logits in answers.items()}
    right = {name: (logits.argmax(1) == expected).numpy() for name, logits in answers.items()}
    return Trial(order, called, min(losses, key=losses.__getitem__), right)


def choose_order(default: Trial, others: Sequence[Trial]) -> Trial:
    """The trial whose order is surely better than that of `default`, and better than chance; else `default`."""
    least = max(default.best.mean(), find_near_chance(len(default.order)))
    better = [each for each in others if each.best.mean() > least and mcnemar(each.best, default.best) < SURE]
    return max(better, key=lambda each: each.best.mean(), default=default)


def find_near_chance(classes: int) -> float:
    """The share of right answers below which a model seems not to know its images: twice that of guessing, or, of few
    classes, half way from guessing to all."""
    return min(2 / classes, (1 + 1 / classes) / 2)


def _natural_key(name: str) -> list[int | str]:
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", name.lower()))]
