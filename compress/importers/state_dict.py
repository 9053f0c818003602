"""The weights inside of what trainings save around them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from baselines.errors import InputError
from compress.importers.base import Content
from compress.importers.choice import AVERAGES, LATEST, TEACHERS, Chooser, find_words

DEEPEST = 4  # dictionaries inside of one another
COUNTERS = ("n_averaged", "num_updates", "decay")  # that averaging keeps beside the weights
STATES = {"optimizer", "optimizers", "optim", "scheduler", "scaler", "callbacks"}  # words of entries that are no models
LEAST_TENSORS = 8  # of a model under a name that says nothing: a loss has fewer
LONGEST_NAME = 256  # characters


def extract_state_dict(content: Content, chooser: Chooser) -> Content:
    """The content with tensors by name as its tree, out of whatever dictionaries they lie in.

    Args:
        chooser: says which, where there are several models.

    Raises:
        InputError: there are none, some are no plain numbers in memory, or nothing says which are meant.
    """
    tree = content.tree
    for _ in range(DEEPEST):
        models = _find_models(tree) if isinstance(tree, Mapping) else {}
        if not models:
            break
        tree = models[chooser.choose({name: list(list_tensors(inner)) for name, inner in models.items()})]
    tensors = _select_tensors(tree)
    if not tensors:
        raise InputError(f"{content.path} holds no weights; give a file of a model's state_dict()")
    for name, value in tensors.items():
        if not isinstance(name, str) or len(name) > LONGEST_NAME:
            raise InputError(f"{content.path}: {name!s:.40} is no name of a weight; save the state_dict() of a model")
        if not is_plain(value):
            raise InputError(f"{content.path}: {name} is no plain tensor in memory; save it as one")
    return replace(content, tree=tensors)


def _find_models(tree: Mapping[Any, Any]) -> dict[str, Mapping[Any, Any]]:
    """The dictionaries of weights in another one; none where it holds the weights itself."""
    inner = {
        name: each
        for name, each in tree.items()
        if isinstance(name, str) and isinstance(each, Mapping) and not find_words(name) & STATES
    }
    held = {name: sum(1 for _ in list_tensors(each)) for name, each in inner.items()}
    known = {name for name in inner if held[name] and (name in LATEST or find_words(name) & (AVERAGES | TEACHERS))}
    if not known and _select_tensors(tree):
        return {}
    found = {name: each for name, each in inner.items() if name in known or held[name] >= LEAST_TENSORS}
    return found or {name: each for name, each in inner.items() if held[name]}


def list_tensors(tree: Mapping[Any, Any]) -> Iterator[Tensor]:
    """The tensors in a dictionary and in those directly inside of it."""
    yield from _select_tensors(tree).values()
    for each in tree.values():
        yield from _select_tensors(each).values()


def _select_tensors(tree: Any) -> dict[str, Tensor]:
    if not isinstance(tree, Mapping):
        return {}
    return {name: value for name, value in tree.items() if isinstance(value, Tensor) and name not in COUNTERS}


def is_plain(value: Tensor) -> bool:
    """Whether a tensor is what it seems: dense, in memory, and no larger than what it lies in."""
    if type(value) not in (Tensor, torch.nn.Parameter) or value.layout is not torch.strided or value.is_quantized:
        return False
    if value.device.type != "cpu":
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()
