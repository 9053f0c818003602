"""Who a student learns from: a checkpoint of any geometry, whatever was done to it, that sees the student's images.

Legend: B images, C channels.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.classifier import Classifier
from baselines.data import Data
from baselines.errors import InputError
from baselines.vit import VisionTransformer
from compress import loading, variant
from compress.checkpoints import checkpoint
from compress.methods import Method


def of(methods: Sequence[Method], baseline: Path, data: Data) -> Classifier:
    """The teacher that one of `methods` names; the model of `baseline` where none does."""
    named = names(methods)
    return read(named[0], data) if named else loading.restore(baseline)[0]


def names(methods: Sequence[Method]) -> list[Path]:
    """Files of the teachers that methods name."""
    return [Path(name) for method in methods if (name := method.teacher_file()) is not None]


def keys(methods: Sequence[Method]) -> list[str]:
    """A hash of each file in `names`."""
    return [_hash(path) for path in names(methods)]


def _hash(path: Path) -> str:
    """Of a file, or of all in a folder."""
    found = hashlib.sha256()
    for each in sorted(path.iterdir()) if path.is_dir() else [path]:
        if each.is_file():
            found.update(each.read_bytes())
    return found.hexdigest()


def check(settings: Mapping[str, Mapping[str, Any]], data: Data) -> None:
    """Raises InputError where a teacher that settings of methods name cannot be used: better before the training."""
    for path in names([variant.make_method(name, values) for name, values in settings.items()]):
        read(path, data)


def read(path: Path, data: Data) -> VisionTransformer:
    """The model of a checkpoint, made to take images of `data` as the student gets them.

    Raises:
        InputError: the file cannot be read, or its model knows other classes or channels.
    """
    content = checkpoint.load(path)
    if not content.classes or not content.mean:
        raise InputError(
            f"teacher {path} does not say what its classes are called or how its images are normalised; "
            f"compress distill {path} finds out"
        )
    if content.classes != data.classes:
        raise InputError(
            f"teacher {path} knows {len(content.classes)} classes ({', '.join(content.classes[:3])}, ...), {data.name} "
            f"has {len(data.classes)} ({', '.join(data.classes[:3])}, ...); give a teacher of the same classes"
        )
    if len(content.mean) != len(data.mean):
        raise InputError(
            f"teacher {path} sees {len(content.mean)} channels, the student {len(data.mean)}; "
            f"set channels = {len(content.mean)} in [model]"
        )
    model = loading.restore_vit(path)[0]
    model.patch_embed = nn.Sequential(
        View(data, content.mean, content.std, content.config.image_size), model.patch_embed
    )
    return model


class View(nn.Module):
    """Images (B, C, height, width) normalised as in `data` -> normalised with `mean` and `std`, of another size."""

    def __init__(self, data: Data, mean: Sequence[float], std: Sequence[float], image_size: tuple[int, int]):
        super().__init__()
        self.image_size = image_size
        own_mean, own_std, mean_C, std_C = (torch.tensor(each) for each in (data.mean, data.std, mean, std))
        self.factor: Tensor
        self.shift: Tensor
        self.register_buffer("factor", (own_std / std_C)[:, None, None])
        self.register_buffer("shift", ((own_mean - mean_C) / std_C)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        images = images * self.factor + self.shift
        if images.shape[-2:] == self.image_size:
            return images
        return F.interpolate(images, self.image_size, mode="bilinear", antialias=True)
