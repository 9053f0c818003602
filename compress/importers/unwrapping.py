"""The weights inside of what trainings save around them."""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from baselines.errors import InputError
from compress.importers.base import Source
from compress.importers.reading import Content

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "module_ema")
PLAIN = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "params",
    "weights",
    "student",
    "teacher",
)
DEEPEST = 4  # dictionaries inside of one another
COUNTERS = ("n_averaged", "num_updates", "decay")  # that averaging keeps beside the weights
LONGEST_SETTING, LONGEST_NAME, LONGEST_TEXT = 40, 256, 4096  # characters
LARGEST = 2.0**100  # of a setting; float32 holds it
CHUNK = 2**22  # values that are looked at together, so that copies stay small
SHOWN = 8  # names in a note


def unwrap(content: Content, *, ema: bool) -> Source:
    """The tensors by name, out of whatever dictionaries they lie in.

    Args:
        ema: whether averaged weights go before the last ones, where there are both.

    Raises:
        InputError: there are none, or some are no plain numbers in memory.
    """
    tree, notes = content.tree, []
    for _ in range(DEEPEST):
        if not isinstance(tree, Mapping):
            break
        found = _inside(tree, ema)
        if found is None:
            break
        name, tree = found
        if any(each in content.tree for each in AVERAGED) and name in (*AVERAGED, *PLAIN):
            others = [f"{each!s:.40}" for each in itertools.islice(content.tree, SHOWN)]
            notes.append(f"weights of {name!r} out of {', '.join(others)}")
    tensors = _tensors(tree)
    if not tensors:
        raise InputError(f"{content.path} holds no weights; give a file of a model's state_dict()")
    for name, value in tensors.items():
        if not isinstance(name, str) or len(name) > LONGEST_NAME:
            raise InputError(f"{content.path}: {name!s:.40} is no name of a weight; save the state_dict() of a model")
        if not plain(value):
            raise InputError(f"{content.path}: {name} is no plain tensor in memory; save it as one")
    return Source(content.path, tensors, content.settings, content.preprocessing, tuple(notes))


def _inside(tree: Mapping[Any, Any], ema: bool) -> tuple[str, Mapping[Any, Any]] | None:
    """The dictionary of weights in another one, and its name."""
    for name in (*AVERAGED, *PLAIN) if ema else (*PLAIN, *AVERAGED):
        if isinstance(inner := tree.get(name), Mapping) and _holds_tensors(inner):
            return name, inner
    if _tensors(tree):
        return None
    others = [(str(name), inner) for name, inner in tree.items() if isinstance(inner, Mapping) and _tensors(inner)]
    return others[0] if len(others) == 1 else None


def _holds_tensors(tree: Mapping[Any, Any]) -> bool:
    inner = [value for value in tree.values() if isinstance(value, Mapping)]
    return bool(_tensors(tree)) or any(_tensors(each) for each in inner)


def _tensors(tree: Any) -> dict[str, Tensor]:
    if not isinstance(tree, Mapping):
        return {}
    return {name: value for name, value in tree.items() if isinstance(value, Tensor) and name not in COUNTERS}


def plain(value: Tensor) -> bool:
    """Whether a tensor is what it seems: dense, in memory, and no larger than what it lies in."""
    if type(value) not in (Tensor, torch.nn.Parameter) or value.layout is not torch.strided or value.is_quantized:
        return False
    if value.device.type != "cpu":
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def sound(state: Mapping[str, Tensor], *, floats: bool) -> dict[str, Tensor]:
    """The weights of a checkpoint of ours as they are, after a look at all of them.

    Args:
        floats: whether they are those of a plain Vision Transformer, which are floats and finite. Others may have
            masks of infinities, and integers.

    Raises:
        ValueError: a weight is not what its name promises, or no number.
    """
    for name, value in state.items():
        if not isinstance(value, Tensor) or not plain(value) or value.is_complex():
            raise ValueError(f"{text(name)} is no plain tensor")
        if floats and not value.is_floating_point() and not name.endswith("num_batches_tracked"):  # of a batch norm
            raise ValueError(f"{text(name)} holds {str(value.dtype).removeprefix('torch.')}, where floats are expected")
        for part in value.detach().flatten().split(CHUNK) if value.is_floating_point() and value.numel() else ():
            ends = torch.stack(
                (part if part.itemsize > 1 else part.float()).aminmax()
            )  # not a number, where one is not
            if not (ends.isfinite() if floats else ~ends.isnan()).all():
                raise ValueError(f"{text(name)} holds values that are not finite")
    return {text(name): value for name, value in state.items()}


def settings(found: Mapping[str, Any]) -> dict[str, Any]:
    """Values by name; raises ValueError where a name, a text or a number is longer or larger than any of ours."""
    for name, value in found.items():
        text(name, LONGEST_SETTING)
        text(value if isinstance(value, str) else "", LONGEST_NAME if name == "name" else LONGEST_TEXT)
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, int | float) and not abs(each) < LARGEST:
                raise ValueError(f"{name} is {each:.1e}" if isinstance(each, float) else f"{name} is too large")
    return dict(found)


def text(value: Any, longest: int = LONGEST_TEXT) -> str:
    """Raises ValueError for anything but a text of a reasonable length."""
    if not isinstance(value, str) or len(value) > longest:
        raise ValueError(f"{str(value)[:40]!r} where a name is expected")
    return value


def record(found: Any, **kinds: type) -> dict[str, Any] | None:
    """A few facts by name, None where nothing is known; raises KeyError or ValueError where they are of other kinds."""
    if not found:
        return None
    facts = {name: found[name] for name in kinds}
    for name, kind in kinds.items():
        if type(facts[name]) is not kind:
            raise ValueError(f"{name} is no {kind.__name__}")
        for each in facts[name] if kind is list else [facts[name]] if kind is str else []:
            text(each)
    return facts
