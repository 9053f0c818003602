"""Checkpoint -> model, and back: the structure of its methods is rebuilt around the weights that were read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.classifier import Classifier, ImageConfig
from baselines.data import Data
from baselines.errors import InputError
from baselines.vit import VisionTransformer
from compress.checkpoints import checkpoint, user_models
from compress.checkpoints.checkpoint import Checkpoint
from compress.checkpoints.user_models import ModuleConfig
from compress.importers import Hints
from compress.methods import Method
from compress.variant import Variant, baseline_name, check_order, convert, make_method, prepare


def pack(
    model: Classifier,
    methods: Sequence[Method],
    data: Data,
    config: ImageConfig,
    *,
    converted: bool = False,
    calibration: dict[str, Any] | None = None,
) -> Checkpoint:
    """A model with all that is needed to rebuild and feed it."""
    return Checkpoint(
        config=config,
        methods=tuple({"name": method.name, **method.model_dump()} for method in methods),
        state=model.state_dict(),
        dataset=data.name,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        resizing=data.resizing,
        converted=converted,
        calibration=calibration,
    )


def cast_to_float32(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in float32, in which a model is rebuilt; those that are so are not copied."""
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def restore(path: Path | None, hints: Hints | None = None) -> tuple[Classifier, Variant, Checkpoint]:
    """Reads a checkpoint and rebuilds its model; see `rebuild`.

    Args:
        path: None for a model of the user's code, with the weights that it gives.
        hints: what a file of another library does not say itself.

    Raises:
        InputError: the file cannot be read, or as `rebuild`.
    """
    content = checkpoint.load(path, hints) if path else checkpoint.load_user_model(hints or Hints())
    return *rebuild(content, path, hints), content


def rebuild(content: Checkpoint, path: Path | None, hints: Hints | None = None) -> tuple[Classifier, Variant]:
    """The model of a checkpoint that was read, on the CPU, in evaluation mode, converted if the file is.

    Args:
        path: where it was read from, for messages.

    Raises:
        InputError: it was only pretrained, or its weights do not fit its own description.
    """
    if content.pretrained:
        raise InputError(f"{path} was pretrained and knows no classes yet; train it with: compress train --init {path}")
    methods = []
    for entry in content.methods:
        settings = dict(entry)
        try:
            methods.append(make_method(str(settings.pop("name", None)), settings))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    variant = Variant(check_order(str(path), methods), baseline_name(content.config))
    added = [method for method in methods if not method.in_geometry]
    assign = not added and not isinstance(content.config, ModuleConfig)
    with torch.device("meta" if assign else "cpu"):  # weights of a plain model are those that were read, not copies
        model = user_models.build_model(content.config, path, hints)
    model = prepare(model, added)
    model = convert(model, methods) if content.converted else model
    try:
        model.load_state_dict(content.state if added else cast_to_float32(content.state), assign=assign)
    except RuntimeError as error:
        fault = str(error).split("\n\t")[1].rstrip(". ") if "\n\t" in str(error) else str(error)
        raise InputError(
            f"{path} does not hold the weights its own description asks for ({fault}); {checkpoint.REMEDY}"
        ) from error
    return model.eval(), variant


def restore_vit(path: Path, hints: Hints | None = None) -> tuple[VisionTransformer, Variant, Checkpoint]:
    """As `restore`; raises InputError for a model of the user's code too."""
    model, variant, content = restore(path, hints)
    assert content.geometry
    _ = content.geometry  # which such a model does not have
    assert isinstance(model, VisionTransformer)
    return model, variant, content
