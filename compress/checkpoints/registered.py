"""A model of timm, by its name, as a checkpoint: one of ours where both answer alike, else code that timm has."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines.classifier import Classifier
from baselines.errors import InputError
from baselines.vit import VisionTransformer
from compress import importers
from compress.checkpoints import user_models
from compress.checkpoints.checkpoint import Checkpoint, from_imported, load_user_model
from compress.importers import Hints, timm_registry
from compress.importers.preprocessing import read_timm
from compress.importers.timm_registry import Registered
from compress.importers.timm_settings import Preprocessing

TOLERANCE = 1e-3  # of the largest logit, between a module and what it became


def load_registered(path: Path, name: str, hints: Hints) -> Checkpoint:
    """What `checkpoint.load` gives for `timm:NAME`, and for the weights of a file that is to be read as such a model.

    Raises:
        InputError: there is no such model, or it does not classify images.
    """
    found = timm_registry.create_model(name)
    content = None if hints.model else convert_registered(found, path, hints)
    if content is None:  # the user has named what code this is
        content = load_user_model(replace(hints, model=user_models.resolve_spec(hints.model or str(path))))
        content = add_preprocessing(content, found.module)
    warning = found.warning
    origin = {**(content.origin or {}), "choice": warning, "random": bool(warning)}
    origin["notes"] = [*origin["notes"], *([warning] if warning else [f"weights of {found.weights}"])]
    return replace(content, origin=origin)


def convert_registered(found: Registered, path: Path, hints: Hints) -> Checkpoint | None:
    """A Vision Transformer as one of ours; None where it is none, or answers otherwise then."""
    try:
        model = importers.convert(found.describe(path), hints)
    except InputError:
        return None
    if (
        model.head
        and model.config.image_size == tuple(found.describe(path).settings["pretrained_cfg"]["input_size"])[1:]
    ):
        ours = VisionTransformer(model.config)
        ours.load_state_dict(model.state)
        if not answers_alike(found.module, ours):
            return None
    return from_imported(model)


def add_preprocessing(content: Checkpoint, module: nn.Module) -> Checkpoint:
    """With what timm says of the images of a module, where the checkpoint says nothing of them."""
    said: Any = getattr(module, "pretrained_cfg", None) or {}
    if content.mean or not said.get("mean"):
        return content
    known = Preprocessing.model_validate({name: said.get(name) for name in Preprocessing.model_fields})
    resizing = read_timm(known, content.config.image_size, known.mean)
    return replace(content, mean=known.mean, std=known.std, resizing=resizing)


@torch.inference_mode()
def answers_alike(theirs: nn.Module, ours: Classifier) -> bool:
    """Whether both give the same logits for noise."""
    config = ours.config
    images = torch.randn(4, config.channels, *config.image_size, generator=torch.Generator().manual_seed(0))
    answer = copy.deepcopy(theirs).cpu().eval()(images)
    wanted: Tensor = getattr(answer, "logits", answer)
    got = ours.eval()(images)
    return got.shape == wanted.shape and bool((got - wanted).abs().max() <= TOLERANCE * wanted.abs().max())
