"""Data sets by name, and the training images that calibrate models and check exports."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines import sources
from baselines.data import Data
from baselines.errors import InputError
from baselines.subset import Subset, cut
from compress.export import PARITY_BATCHES

PARITY_IMAGES = 64
BATCH = 128


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


def sample_images(data: Data, count: int, seed: int = 0) -> list[Tensor]:
    """Normalised training images, chosen by a seed, on the CPU, in batches of up to 128."""
    chosen = _order(data, seed)[:count]
    return [images for images, _ in data.batches(data.train, BATCH, torch.device("cpu"), indices=chosen)]


def held_out_images(data: Data, count: int, after: int) -> list[tuple[Tensor, Tensor]]:
    """Training images and their labels, as `sample_images` gives them, none of which is among its first `after`.

    Raises:
        InputError: no image is left.
    """
    chosen = _order(data)[after : after + count]
    if not len(chosen):
        raise InputError(
            f"{data.name} has {len(data.train.labels)} training images and all of them calibrate; "
            "lower --calibration-images, so that others can judge"
        )
    return list(data.batches(data.train, BATCH, torch.device("cpu"), indices=chosen))


def describe_calibration(data: Data, count: int) -> dict[str, Any]:
    """How many images `sample_images` gives, and the SHA-256 of their indices and uint8 pixels, in hexadecimal."""
    chosen = _order(data)[:count]
    digest = hashlib.sha256(chosen.numpy().astype("<i8").tobytes())
    for images in data.train.fetch(list(chosen.split(BATCH)), torch.device("cpu")):
        digest.update(images.numpy().tobytes())
    return {"images": len(chosen), "sha256": digest.hexdigest()}


def _order(data: Data, seed: int = 0) -> Tensor:
    """Indices of all training images, shuffled."""
    return torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(seed))


def parity_images(data: Data) -> Tensor:
    """Training images for the check of an exported graph, (n, C, height, width); few ones come again and again."""
    images = torch.cat(sample_images(data, PARITY_IMAGES))
    return images.repeat(-(-sum(PARITY_BATCHES) // len(images)), 1, 1, 1)
