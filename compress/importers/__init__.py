"""Checkpoints of other libraries -> models of ours. A layout is one file here, and one line below.

Nothing in a file is ever run; see `reading.py`.
"""

from collections.abc import Collection
from dataclasses import replace

from baselines.errors import InputError
from compress.importers import google, huggingface, jeonsworld, lucidrains, timm, torchvision
from compress.importers.base import UNKNOWN, Family, Foreign, Hints, Source
from compress.importers.normalising import normalisations
from compress.importers.reading import Content, read, torch_file
from compress.importers.shapes import check
from compress.importers.unwrapping import unwrap
from compress.importers.weights import Weights, precision

FAMILIES: tuple[Family, ...] = (
    google.FAMILY,
    huggingface.FAMILY,
    timm.FAMILY,
    torchvision.FAMILY,
    lucidrains.FAMILY,
    jeonsworld.FAMILY,
)

__all__ = [
    "FAMILIES",
    "Content",
    "Foreign",
    "Hints",
    "Source",
    "convert",
    "normalisations",
    "precision",
    "read",
    "torch_file",
]


def convert(content: Content, hints: Hints) -> Foreign:
    """The model that a file of another library holds.

    Raises:
        InputError: of no known layout, incomplete, with more in it than such a model has, with weights that are no
            numbers, or in need of something that `hints` do not say.
    """
    source = unwrap(content, ema=hints.ema)
    for family in FAMILIES:
        prefix = found(source.tensors, family.marker)
        if prefix is not None:
            weights = Weights(source, prefix)
            foreign = family.read(weights, hints)
            weights.finish()
            check(foreign, source.path)
            notes = (*weights.notes, *foreign.notes)
            return replace(foreign, family=family.name, numbers=precision(source.tensors), notes=notes)
    names, kind = ", ".join(list(source.tensors)[:3]), source.settings.get("model_type")
    told = f"model_type {kind!s:.40}, " if kind else ""
    raise InputError(f"{source.path} is of no layout that compress knows ({told}it holds {names}, ...); {UNKNOWN}")


def found(names: Collection[str], markers: str | tuple[str, ...]) -> str | None:
    """What stands in front of the first marker that ends one of the names; None where none does."""
    for marker in (markers,) if isinstance(markers, str) else markers:
        for name in names:
            prefix = name.removesuffix(marker)
            if name.endswith(marker) and (not prefix or prefix[-1] in "./"):
                return prefix
    return None
