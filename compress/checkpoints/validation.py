"""Whether what a checkpoint of ours says is plain weights, names and numbers of a usual size."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from baselines import macs
from baselines.vit import ViTConfig
from compress.importers.state_dict import is_plain

if TYPE_CHECKING:
    from compress.checkpoints.checkpoint import Checkpoint

LONGEST_SETTING, LONGEST_NAME, LONGEST_TEXT = 40, 256, 4096  # characters
LARGEST = 2.0**100  # of a setting; float32 holds it
LEAST_TENSORS = 8  # of a block
CHUNK = 2**22  # values that are looked at together, so that copies stay small


def check_state(state: Mapping[str, Tensor], *, floats: bool) -> dict[str, Tensor]:
    """The weights of a checkpoint of ours as they are, after a look at all of them.

    Args:
        floats: whether they are those of a plain Vision Transformer, which are floats and finite. Others may have
            masks of infinities, and integers.

    Raises:
        ValueError: a weight is not what its name promises, or no number.
    """
    for name, value in state.items():
        if not isinstance(value, Tensor) or not is_plain(value) or value.is_complex():
            raise ValueError(f"{check_text(name)} is no plain tensor")
        if floats and not value.is_floating_point() and not name.endswith("num_batches_tracked"):  # of a batch norm
            raise ValueError(
                f"{check_text(name)} holds {str(value.dtype).removeprefix('torch.')}, where floats are expected"
            )
        for part in value.detach().flatten().split(CHUNK) if value.is_floating_point() and value.numel() else ():
            ends = torch.stack((part if part.itemsize > 1 else part.float()).aminmax())  # NaN, where one is
            if not (ends.isfinite() if floats else ~ends.isnan()).all():
                raise ValueError(f"{check_text(name)} holds values that are not finite")
    return {check_text(name): value for name, value in state.items()}


def check_settings(found: Mapping[str, Any]) -> dict[str, Any]:
    """Values by name; raises ValueError where a name, a text or a number is longer or larger than any of ours."""
    for name, value in found.items():
        check_text(name, LONGEST_SETTING)
        check_text(value if isinstance(value, str) else "", LONGEST_NAME if name == "name" else LONGEST_TEXT)
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, int | float) and not abs(each) < LARGEST:
                raise ValueError(f"{name} is {each:.1e}" if isinstance(each, float) else f"{name} is too large")
    return dict(found)


def check_text(value: Any, longest: int = LONGEST_TEXT) -> str:
    """Raises ValueError for anything but a text of a reasonable length."""
    if not isinstance(value, str) or len(value) > longest:
        raise ValueError(f"{str(value)[:40]!r} where a name is expected")
    return value


def check_origin(found: Any) -> dict[str, Any] | None:
    """As `check_facts`, of the origin of a checkpoint; older files do not say how many parameters it had."""
    counted = {"parameters": int} if isinstance(found, Mapping) and "parameters" in found else {}
    return check_facts(found, family=str, numbers=str, notes=list, **counted)


def check_facts(found: Any, **kinds: type) -> dict[str, Any] | None:
    """A few facts by name, None where nothing is known; raises KeyError or ValueError where they are of other kinds."""
    if not found:
        return None
    facts = {name: found[name] for name in kinds}
    for name, kind in kinds.items():
        if type(facts[name]) is not kind:
            raise ValueError(f"{name} is no {kind.__name__}")
        if kind is int and not 0 <= facts[name] < LARGEST:
            raise ValueError(f"{name} is no number of anything")
        for each in facts[name] if kind is list else [facts[name]] if kind is str else []:
            check_text(each)
    return facts


def check_sizes(checkpoint: "Checkpoint") -> None:
    """Raises ValueError where a file contradicts itself, before memory is set aside for what it claims."""
    config, numbers = checkpoint.config, (*checkpoint.mean, *checkpoint.std)
    if not all(map(math.isfinite, numbers)) or min(checkpoint.std, default=1) <= 0:
        raise ValueError(f"mean {checkpoint.mean} and std {checkpoint.std}, by which no image can be normalized")
    unsaid = checkpoint.origin is not None  # of another library's model, kept before anybody said it
    if len(checkpoint.classes) != config.classes and (checkpoint.classes or not unsaid):
        raise ValueError(f"{len(checkpoint.classes)} names for {config.classes} classes")
    if not len(checkpoint.mean) == len(checkpoint.std) == config.channels and (checkpoint.mean or not unsaid):
        raise ValueError(f"mean {checkpoint.mean} and std {checkpoint.std} for {config.channels} channels")
    if not isinstance(config, ViTConfig):
        return
    if len(checkpoint.state) < LEAST_TENSORS * config.depth:
        raise ValueError(f"{len(checkpoint.state)} weights for {config.depth} blocks")
    least = (config.representation or config.dim) * config.classes
    least += config.dim * config.tokens + sum(macs.linear_macs(config, each) for each in config.blocks)
    if config.tokenizer in ("linear", "normed"):
        least += config.dim * config.channels * config.patch_size**2
    twice = torch.uint8  # two weights of 4 bits in a byte
    held = sum(value.numel() * (1 + (value.dtype == twice)) for value in checkpoint.state.values())
    if held < least:
        raise ValueError(f"{held} weights, where its config asks for {least} and more")
