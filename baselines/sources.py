"""Where data sets come from: `digits`, `cifar10`, `cifar100`, `folder:PATH`, the path of a folder, `hf:NAME`, or
`webdataset:SHARDS`."""

import importlib.util
import math
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from baselines import shards
from baselines.data import Data, Split, TensorSplit
from baselines.errors import InputError
from baselines.photos import read_folder, read_set
from baselines.resizing import STRETCHED, Resizing
from baselines.tables import PREFIX, is_saved, read_tables

STATISTICS_LIMIT = 2**28  # bytes of one whose mean and deviation are taken in one piece
FOLDER, DOWNLOADS = "folder:", ("cifar10", "cifar100")
# The order of train_test_split(range(1797), test_size=0.2, stratify=labels, random_state=0) of scikit-learn
DIGITS_SPLIT, DIGITS_TRAIN = Path(__file__).with_name("digits_split.npy"), 1437

Source: TypeAlias = tuple[tuple[str, ...], Split, Split, tuple[str, ...]]  # classes, training, test, notes


def load(
    name: str,
    image_size: tuple[int, int],
    channels: int,
    root: Path = Path("data"),
    resizing: Resizing | None = None,
    *,
    skip_unreadable: bool = False,
) -> Data:
    """Reads a data set, resized to `image_size` (height, width) and with `channels` 1 or 3.

    Args:
        root: where downloads go.
        resizing: how images get to that size; None, where nobody says: stretched.
        skip_unreadable: leave out images of folders that cannot be read, and say how many.

    Raises:
        InputError: unknown name, unreadable folder or image, fewer than two classes, failed download.
    """
    if channels not in (1, 3):
        raise InputError(f"data sets have 1 or 3 channels, not {channels}; set channels in [model] to 1 or 3")
    how = resizing or STRETCHED
    known = name == "digits" or name in DOWNLOADS or name.startswith(FOLDER)
    if not known and Path(name).expanduser().is_dir():
        name = FOLDER + name
    if name == "digits":
        classes, train, test, notes = *_digits(image_size, channels, how), ()
    elif name in DOWNLOADS:
        classes, train, test, notes = *_cifar(name, image_size, channels, root, how), ()
    elif name.startswith((PREFIX, shards.PREFIX)):
        tables = read_tables(name) if name.startswith(PREFIX) else shards.read_shards(name)
        classes, train, test, notes = read_set(name, tables, image_size, channels, how, skip=skip_unreadable)
    elif name.startswith(FOLDER):
        if name == FOLDER:
            raise InputError("--data folder: names no folder; write folder:PATH")
        try:
            place = Path(name.removeprefix(FOLDER)).expanduser()
            read = partial(read_set, name, read_tables(name, place)) if is_saved(place) else partial(read_folder, place)
            classes, train, test, notes = read(image_size, channels, how, skip=skip_unreadable)
        except OSError as error:
            raise InputError(f"--data {name} cannot be read ({error}); give a folder that can") from error
    else:
        raise InputError(
            f"--data {name!r} is not known; choose digits, cifar10, cifar100, hf:NAME, webdataset:SHARDS, or the path "
            "of a folder"
        )
    mean, std = _statistics(train, channels * math.prod(image_size))
    return Data(name, classes, train, test, mean, std, resizing=how, notes=notes)


def _digits(
    image_size: tuple[int, int], channels: int, resizing: Resizing
) -> tuple[tuple[str, ...], Split, Split]:  # fmt: skip
    """1,797 scans of 8x8 pixels with 17 grey levels, shipped inside scikit-learn."""
    scans, target = _read_digits()
    images = torch.from_numpy(scans).float()[:, None].expand(-1, channels, -1, -1) * (255 / 16)
    if resizing == STRETCHED:
        images = F.interpolate(images, image_size, mode="bilinear", align_corners=False).round().to(torch.uint8)
    else:
        images = _fit(images.round().to(torch.uint8), image_size, channels, resizing)
    labels = torch.from_numpy(target).long()
    train, test = np.split(np.load(DIGITS_SPLIT).astype(np.int64), [DIGITS_TRAIN])
    return (
        tuple(str(i) for i in range(10)),
        TensorSplit(images[train], labels[train]),
        TensorSplit(images[test], labels[test]),
    )


def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Scans (1797, 8, 8), 0 to 16, and labels; from scikit-learn's file, since importing it takes seconds."""
    found = importlib.util.find_spec("sklearn")
    path = Path(found.origin if found and found.origin else "").parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        from sklearn.datasets import load_digits

        raw: Any = load_digits()
        return raw.images, raw.target
    table = np.loadtxt(path, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def _cifar(
    name: str, image_size: tuple[int, int], channels: int, root: Path, resizing: Resizing
) -> tuple[tuple[str, ...], Split, Split]:  # fmt: skip
    import torchvision

    source = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    try:
        raw = [source(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{name} could not be downloaded to {root} ({error}); check the connection, or unpack the images into "
            "class folders and use --data folder:PATH"
        ) from error
    splits = []
    for part in raw:
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2)
        splits.append(TensorSplit(_fit(images, image_size, channels, resizing), torch.tensor(part.targets)))
    return tuple(raw[0].classes), splits[0], splits[1]


def _fit(images: Tensor, image_size: tuple[int, int], channels: int, resizing: Resizing) -> Tensor:
    """Resizes uint8 images (n, 1 or 3, height, width), and turns them grey for one channel."""
    if channels == 1 and images.shape[1] == 3:
        grey = images.float().mul(torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        images = grey.round().to(torch.uint8)
    if resizing != STRETCHED:
        pictures = (Image.fromarray(each.permute(1, 2, 0).squeeze(2).numpy()) for each in images)
        pixels = [torch.from_numpy(np.array(resizing.apply(each, image_size))) for each in pictures]
        images = torch.stack(pixels).view(len(images), *image_size, channels).permute(0, 3, 1, 2)
    elif tuple(images.shape[-2:]) != image_size:
        resized = [
            F.interpolate(part.float(), image_size, mode="bilinear", antialias=True) for part in images.split(1024)
        ]
        images = torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in resized])
    return images.contiguous()


def _statistics(split: Split, size: int, sample: int = 10_000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel over up to `sample` images, evenly spread, a batch at a time if large.

    Args:
        size: bytes of an image.
    """
    n, batch = len(split.labels), min(max(STATISTICS_LIMIT // 4 // size, 1), 256)
    chunks = split.fetch(list(torch.arange(0, n, max(1, -(-n // sample))).split(batch)), torch.device("cpu"))
    if isinstance(split, TensorSplit) and split.images.nbytes <= STATISTICS_LIMIT:
        std, mean = torch.std_mean(torch.cat(list(chunks)).float().div_(255), (0, 2, 3))
    else:
        found = [torch.stack([each.flatten().bincount(minlength=256) for each in chunk.unbind(1)]) for chunk in chunks]
        counts, level = torch.stack(found).sum(0).double(), torch.arange(256) / 255
        total = counts[0].sum()
        mean = counts @ level.double() / total
        std = (counts * (level - mean[:, None]) ** 2).sum(1).div(total - 1).sqrt()
    return tuple(mean.tolist()), tuple(std.clamp(min=1e-3).tolist())
