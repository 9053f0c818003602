"""Checkpoints of other libraries -> models of ours. A layout is one file here, and one line below.

Nothing in a file is ever run; see `readers.py`.
"""

from dataclasses import replace

from baselines.errors import InputError
from compress.importers import google, huggingface, jeonsworld, lucidrains, timm, torchvision
from compress.importers.base import UNKNOWN, Content, Hints, ImportedModel, Layout
from compress.importers.choice import Chooser
from compress.importers.class_names import find_class_names
from compress.importers.geometry import check_shapes
from compress.importers.normalization import list_normalizations
from compress.importers.preprocessing import parse_resizing
from compress.importers.readers import read_checkpoint
from compress.importers.state_dict import extract_state_dict
from compress.importers.torch_files import load_torch_file
from compress.importers.weights import Weights, find_dtype
from compress.importers.wrappers import find_model

LAYOUTS: tuple[Layout, ...] = (
    google.LAYOUT,
    huggingface.LAYOUT,
    timm.LAYOUT,
    torchvision.LAYOUT,
    lucidrains.LAYOUT,
    jeonsworld.LAYOUT,
)

__all__ = [
    "LAYOUTS",
    "Content",
    "Hints",
    "ImportedModel",
    "Layout",
    "convert",
    "find_dtype",
    "list_normalizations",
    "load_torch_file",
    "parse_resizing",
    "read_checkpoint",
]


def convert(content: Content, hints: Hints) -> ImportedModel:
    """The model that a file of another library holds.

    Raises:
        InputError: of no known layout, incomplete, with more in it than such a model has, with weights that are no
            numbers, or in need of something that `hints` do not say.
    """
    chooser = Chooser(content.path, hints)
    whole, content = content, extract_state_dict(content, chooser)
    found = find_model(content, LAYOUTS, chooser)
    if found is None:
        names, kind = ", ".join(list(content.tree)[:3]), content.settings.get("model_type")
        told = f"model_type {kind!s:.40}, " if kind else ""
        raise InputError(f"{content.path} is of no layout that compress knows ({told}it holds {names}, ...); {UNKNOWN}")
    chooser.check_found()
    weights = Weights(found.content, found.prefix)
    model = found.layout.read(weights, hints)
    weights.check_none_left()
    check_shapes(weights, model)
    notes, dtype = (*chooser.notes, *weights.notes, *model.notes), find_dtype(found.content.tree)
    told = {"layout": found.layout.name, "dtype": dtype, "notes": notes, "parameters": weights.parameters}
    return _name_classes(replace(model, **told, choice="; ".join(filter(None, [*chooser.notes, model.choice]))), whole)


def _name_classes(model: ImportedModel, content: Content) -> ImportedModel:
    """The model with the names of its classes that its training saved beside the weights, where it has none yet."""
    found = find_class_names(content, model.config.classes) if model.head and not model.classes else None
    if found is None:
        return model
    return replace(model, classes=found[1], notes=(*model.notes, f"names of its classes from {found[0]!r}"))
