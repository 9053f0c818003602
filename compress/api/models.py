"""A model of the user's program -> a checkpoint that every verb takes.

Vision Transformers of timm, torchvision, transformers and the like become ours, which is tried: both must answer alike.
Whatever does not, or is no Vision Transformer, stays code: the module is kept as a whole beside a factory that gives it
to the processes which measure it.
"""

import copy
import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cloudpickle
from torch import nn

from baselines.errors import InputError
from baselines.vit import VisionTransformer
from compress import importers, loading
from compress.checkpoints import checkpoint, named_code, user_models
from compress.checkpoints.checkpoint import Checkpoint
from compress.checkpoints.registered import add_preprocessing, answers_alike
from compress.importers import Content, Hints

FACTORY = '''"""Gives the module beside this file. Made by compress, for the processes that measure it."""

import pathlib
import sys

sys.path += [place for place in {places!r} if place not in sys.path]


def {name}():
    import cloudpickle

    return cloudpickle.loads(pathlib.Path(__file__).with_suffix(".pkl").read_bytes())
'''


@dataclass(frozen=True)
class Source:
    """Where a model lies, and what has to be said of it."""

    path: Path
    hints: Hints = field(default_factory=Hints)


def write_checkpoint(model: Any, folder: Path, image_size: int | tuple[int, int] | None = None, **said: Any) -> Source:
    """A checkpoint of a model.

    Args:
        model: a module, or the path of a checkpoint, which is used where it lies, or `timm:NAME`.
        folder: takes the file.
        image_size: height and width, of a module that does not say it.
        said: further fields of `Hints`, for a file.

    Raises:
        InputError: it is no such thing, or no classifier of images.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if isinstance(model, str | Path):
        named_code.name_code(None)  # code of an earlier call does not stand for this file
        return Source(Path(model), Hints(image_size=size, **said))
    if not isinstance(model, nn.Module):
        raise InputError(f"a model is a path or an nn.Module, not {type(model).__name__}")
    path = folder / f"{name_model(model)}.pth"
    known = describe_vit(model, size)
    if known is not None:
        checkpoint.save(path, known)
        return Source(path)
    factory = path.with_suffix(".py")
    factory.write_text(FACTORY.format(places=[place for place in sys.path if place], name=path.stem), encoding="utf-8")
    path.with_suffix(".pkl").write_bytes(cloudpickle.dumps(copy.deepcopy(model).cpu().eval()))
    hints = Hints(image_size=size or find_image_size(model), model=user_models.resolve_spec(f"{factory}:{path.stem}"))
    checkpoint.save(path, checkpoint.load_user_model(hints))
    return Source(path, replace(hints, image_size=None))


def name_model(model: nn.Module) -> str:
    """What its variants are called: vit, or the name of its class in small letters."""
    return "vit" if isinstance(model, VisionTransformer) else type(model).__name__.lower()


def describe_vit(model: nn.Module, size: tuple[int, int] | None) -> Checkpoint | None:
    """A Vision Transformer as one of ours; None where it is none, or answers otherwise then."""
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    if isinstance(model, VisionTransformer):
        origin = {"family": "Python", "numbers": importers.find_dtype(state), "notes": []}
        return Checkpoint(model.config, (), state, dataset="", classes=(), mean=(), std=(), origin=origin)
    config: Any = getattr(model, "config", None)
    settings = json.loads(json.dumps(config.to_dict(), default=str)) if hasattr(config, "to_dict") else {}
    told: list[Any] = [getattr(each, "num_heads", None) for each in model.modules()]
    heads = next((each for each in told if isinstance(each, int)), None)
    hints = Hints(image_size=size) if settings else Hints(heads, size or find_image_size(model))
    try:
        found = checkpoint.from_imported(importers.convert(Content(Path(name_model(model)), state, settings), hints))
        if found.pretrained or not answers_alike(model, loading.rebuild(found, None)[0]):
            return None
    except InputError:
        return None
    return add_preprocessing(found, model)


def find_image_size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width that a module of timm or torchvision was made for."""
    embedding: Any = getattr(model, "patch_embed", None)
    said: Any = getattr(embedding, "img_size", None) or getattr(model, "image_size", None)
    if isinstance(said, int):
        return said, said
    return (int(said[0]), int(said[1])) if said is not None and len(said) == 2 else None
