"""Data sets by name, and the training images that calibrate models and check exports."""

from pathlib import Path

import torch
from torch import Tensor

from baselines import sources
from baselines.data import Data
from baselines.errors import InputError
from baselines.subset import Subset, cut
from compress.export import PARITY_BATCHES

PARITY_IMAGES = 64


def load_data(name: str, image_size: tuple[int, int], channels: int, out: Path, subset: Subset | None = None) -> Data:
    """A data set by its name, cut to `subset`.

    A checkpoint keeps the name alone: `quantize` and `export` take images of the whole set, whose training images hold
    those the model learned from, and whose test images it never saw.
    """
    data = sources.load(name, image_size, channels, root=out / "data")
    return cut(data, subset) if subset else data


def check_classes(path: Path | None, classes: tuple[str, ...], data: Data) -> None:
    """Raises InputError where a checkpoint knows other classes than a data set."""
    if classes != data.classes:
        raise InputError(
            f"{path} knows {len(classes)} classes ({', '.join(classes[:3])}, ...), {data.name} has {len(data.classes)} "
            f"({', '.join(data.classes[:3])}, ...); give the data it was trained on with --data"
        )


def sample_images(data: Data, count: int) -> list[Tensor]:
    """Normalised training images, chosen by a fixed seed, on the CPU, in batches of up to 128."""
    order = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(0))[:count]
    return [images for images, _ in data.batches(data.train, 128, torch.device("cpu"), indices=order)]


def parity_images(data: Data) -> Tensor:
    """Training images for the check of an exported graph, (n, C, height, width); few ones come again and again."""
    images = torch.cat(sample_images(data, PARITY_IMAGES))
    return images.repeat(-(-sum(PARITY_BATCHES) // len(images)), 1, 1, 1)
