"""Who a student learns from: a checkpoint of any geometry or of the user's code, which sees the student's images.

Legend: B images, C channels.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.classifier import Classifier
from baselines.data import Data
from baselines.errors import InputError
from baselines.vit import VisionTransformer
from compress import loading
from compress.checkpoints import checkpoint
from compress.config import BenchConfig
from compress.importers import Hints
from compress.methods import Method
from compress.training.data import adapt_to_data, load_data
from compress.variant import Variant, make_method

FILE = "teacher.pth"  # in the run directory: a teacher that is a checkpoint of another library


def choose(methods: Sequence[Method], baseline: Path, data: Data) -> Classifier:
    """The teacher that one of `methods` names; the model of `baseline` where none does."""
    named = list_files(methods)
    return read(named[0], data)[0] if named else loading.restore(baseline)[0]


def list_files(methods: Sequence[Method]) -> list[Path]:
    """Files of the teachers that methods name."""
    return [Path(name) for method in methods if (name := method.teacher_file()) is not None]


def hash_files(methods: Sequence[Method]) -> list[str]:
    """SHA-256 of each of `list_files`; of a folder, that of all files in it."""
    found = []
    for path in list_files(methods):
        digest = hashlib.sha256()
        for each in sorted(path.iterdir()) if path.is_dir() else [path]:
            if each.is_file():
                digest.update(each.read_bytes())
        found.append(digest.hexdigest())
    return found


def check(settings: Mapping[str, Mapping[str, Any]], data: Data) -> None:
    """Raises InputError where a teacher that settings of methods name cannot be used: better before the training."""
    for path in list_files([make_method(name, values) for name, values in settings.items()]):
        read(path, data)


def adopt(
    path: Path, hints: Hints, config: BenchConfig, out: Path, say: Callable[[str], Any], given: Data | None = None
) -> Path:
    """The teacher as a checkpoint of ours: itself, or what is made of a file of another library and kept in `out`.

    Args:
        given: the data set, instead of the one that the settings name.
    """
    model, _, content = loading.restore(path, hints)
    if content.origin is None:
        return path
    size, channels = content.config.image_size, content.config.channels
    named, skip = given or config.data, config.skip_unreadable
    data = load_data(named, size, channels, out, config.subset, resizing=content.resizing, skip_unreadable=skip)
    content, _ = adapt_to_data(path, model, content, data, hints, say)
    checkpoint.save(out / FILE, content)
    return out / FILE


def read(path: Path, data: Data) -> tuple[Classifier, Variant]:
    """The model of a checkpoint, made to take images of `data` as the student gets them, and what it is.

    Raises:
        InputError: the file cannot be read, its model knows other classes or channels, or was made from code that the
            user did not name.
    """
    model, variant, content = loading.restore(path)
    if not content.classes or not content.mean:
        raise InputError(
            f"teacher {path} does not say what its classes are called or how its images are normalized; "
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
    view = View(data, content.mean, content.std, content.config.image_size)
    first = "patch_embed" if isinstance(model, VisionTransformer) else "module"  # of a model of the user's code
    setattr(model, first, nn.Sequential(view, getattr(model, first)))
    return model, variant


class View(nn.Module):
    """Images (B, C, height, width) normalized as in `data` -> normalized with `mean` and `std`, of another size."""

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
