"""The weights inside of what trainings save around them."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from baselines.errors import InputError
from compress.importers.base import Content

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "module_ema")
PLAIN = (
    "state_dict", "model_state_dict", "model", "module", "net", "network", "params", "weights", "student", "teacher",
)  # fmt: skip
DEEPEST = 4  # dictionaries inside of one another
COUNTERS = ("n_averaged", "num_updates", "decay")  # that averaging keeps beside the weights
LONGEST_NAME = 256  # characters
SHOWN = 8  # names in a note


def extract_state_dict(content: Content, *, ema: bool) -> Content:
    """The content with tensors by name as its tree, out of whatever dictionaries they lie in.

    Args:
        ema: whether averaged weights take precedence over the last ones, where there are both.

    Raises:
        InputError: there are none, or some are no plain numbers in memory.
    """
    tree, notes = content.tree, []
    for _ in range(DEEPEST):
        if not isinstance(tree, Mapping):
            break
        found = _find_inner(tree, ema)
        if found is None:
            break
        name, tree = found
        if any(each in content.tree for each in AVERAGED) and name in (*AVERAGED, *PLAIN):
            others = [f"{each!s:.40}" for each in itertools.islice(content.tree, SHOWN)]
            notes.append(f"weights of {name!r} out of {', '.join(others)}")
    tensors = _select_tensors(tree)
    if not tensors:
        raise InputError(f"{content.path} holds no weights; give a file of a model's state_dict()")
    for name, value in tensors.items():
        if not isinstance(name, str) or len(name) > LONGEST_NAME:
            raise InputError(f"{content.path}: {name!s:.40} is no name of a weight; save the state_dict() of a model")
        if not is_plain(value):
            raise InputError(f"{content.path}: {name} is no plain tensor in memory; save it as one")
    return replace(content, tree=tensors, notes=tuple(notes))


def _find_inner(tree: Mapping[Any, Any], ema: bool) -> tuple[str, Mapping[Any, Any]] | None:
    """The dictionary of weights in another one, and its name."""
    for name in (*AVERAGED, *PLAIN) if ema else (*PLAIN, *AVERAGED):
        if isinstance(inner := tree.get(name), Mapping) and _holds_tensors(inner):
            return name, inner
    if _select_tensors(tree):
        return None
    others = [
        (str(name), inner) for name, inner in tree.items() if isinstance(inner, Mapping) and _select_tensors(inner)
    ]
    return others[0] if len(others) == 1 else None


def _holds_tensors(tree: Mapping[Any, Any]) -> bool:
    inner = [value for value in tree.values() if isinstance(value, Mapping)]
    return bool(_select_tensors(tree)) or any(_select_tensors(each) for each in inner)


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
