"""Weights in several files, and the index that says which of them lies where, as Hugging Face and timm write them.

    model.safetensors.index.json    {"weight_map": {"blocks.0.norm1.bias": "model-00001-of-00002.safetensors", ...}}

Only files beside the index are read, by plain names: an index that points elsewhere is refused.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from baselines.errors import InputError
from compress.importers.base import Content
from compress.importers.integrity import REMEDY

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")  # in a folder, in this order
PART = re.compile(r".+-\d{5}-of-\d{5}\.(safetensors|bin)")
NAME = re.compile(r"[\w.-]{1,200}\.(safetensors|bin)")
MOST_PARTS = 1_000


def read_parts(index: Path, table: Mapping[str, Any], read: Callable[[Path], Content]) -> dict[str, Tensor]:
    """The tensors of all parts by name.

    Args:
        table: what the index says.
        read: gives the content of one file.

    Raises:
        InputError: the index names files elsewhere, a part is missing or damaged, or does not hold what the index says.
    """
    places = table.get("weight_map")
    if not isinstance(places, Mapping) or not places or not all(isinstance(name, str) for name in places.values()):
        raise InputError(f"{index} does not say which weights lie in which file (weight_map); {REMEDY}")
    names = sorted(set(places.values()))
    if len(names) > MOST_PARTS:
        raise InputError(f"{index} names {len(names):,} files, more than any model has, so it is refused; {REMEDY}")
    tree: dict[str, Tensor] = {}
    for name in names:
        if not NAME.fullmatch(name) or name.startswith("."):
            raise InputError(f"{index} asks for a file outside its own folder ({name:.80}), so it is refused; {REMEDY}")
        if not os.path.lexists(index.parent / name):
            raise InputError(f"{index.parent} lacks {name}, which its index names; fetch that file too")
        held = read(index.parent / name).tree
        wanted = [key for key, place in places.items() if place == name]
        lost = next((key for key in wanted if not isinstance(held, Mapping) or key not in held), None)
        twice = next((key for key in held if key in tree), None) if lost is None else None
        if lost is not None or twice is not None:
            fault = f"lacks {lost}" if lost is not None else f"holds {twice}, as another part does"
            raise InputError(f"{index.parent / name} {fault:.200}, against what its index says; {REMEDY}")
        tree |= held
    return tree


def is_part(path: Path) -> bool:
    """Whether a file is an index, or one of the parts that an index beside it is of."""
    indexed = PART.fullmatch(path.name) and any(os.path.isfile(path.parent / name) for name in INDEXES)
    return bool(indexed) or (path.name in INDEXES and os.path.isfile(path))
