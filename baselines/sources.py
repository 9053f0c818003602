"""Where data sets come from: `digits`, `cifar10`, `cifar100`, `folder:PATH`."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.data import Data, FileSplit, Split, TensorSplit, decode
from baselines.errors import InputError

MEMORY_LIMIT = 4 * 2**30  # bytes of one split held as a tensor
STATISTICS_LIMIT = 2**28  # bytes of one whose mean and deviation are taken in one piece
TEST_FRACTION = 0.2  # of data sets that come without a test split
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"})


def load(name: str, image_size: tuple[int, int], channels: int, root: Path = Path("data")) -> Data:
    """Reads a data set, resized to `image_size` (height, width) and with `channels` 1 or 3.

    Args:
        root: where downloads go.

    Raises:
        InputError: unknown name, unreadable folder or image, fewer than two classes, failed download.
    """
    if channels not in (1, 3):
        raise InputError(f"data sets have 1 or 3 channels, not {channels}; set channels in [model] to 1 or 3")
    if name == "digits":
        classes, train, test = _digits(image_size, channels)
    elif name in ("cifar10", "cifar100"):
        classes, train, test = _cifar(name, image_size, channels, root)
    elif name.startswith("folder:"):
        if name == "folder:":
            raise InputError("--data folder: names no folder; write folder:PATH")
        try:
            classes, train, test = _folder(Path(name.removeprefix("folder:")), image_size, channels)
        except OSError as error:
            raise InputError(f"--data {name} cannot be read ({error}); give a folder that can") from error
    else:
        raise InputError(f"--data {name!r} is not known; choose digits, cifar10, cifar100 or folder:PATH")
    mean, std = _statistics(train)
    return Data(name, classes, train, test, mean, std)


def _digits(image_size: tuple[int, int], channels: int) -> tuple[tuple[str, ...], Split, Split]:
    """1,797 scans of 8x8 pixels with 17 grey levels, shipped inside scikit-learn."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw: Any = load_digits()
    images = torch.from_numpy(raw.images).float()[:, None].expand(-1, channels, -1, -1) * (255 / 16)
    images = F.interpolate(images, image_size, mode="bilinear", align_corners=False).round().to(torch.uint8)
    labels = torch.from_numpy(raw.target).long()
    train, test = train_test_split(np.arange(len(labels)), test_size=TEST_FRACTION, stratify=raw.target, random_state=0)
    return (
        tuple(str(i) for i in range(10)),
        TensorSplit(images[train], labels[train]),
        TensorSplit(images[test], labels[test]),
    )


def _cifar(name: str, image_size: tuple[int, int], channels: int, root: Path) -> tuple[tuple[str, ...], Split, Split]:
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
        splits.append(TensorSplit(_fit(images, image_size, channels), torch.tensor(part.targets)))
    return tuple(raw[0].classes), splits[0], splits[1]


def _fit(images: Tensor, image_size: tuple[int, int], channels: int) -> Tensor:
    """Resizes uint8 images (n, 3, height, width), and turns them grey for one channel."""
    if channels == 1:
        grey = images.float().mul(torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        images = grey.round().to(torch.uint8)
    if tuple(images.shape[-2:]) != image_size:
        resized = [
            F.interpolate(part.float(), image_size, mode="bilinear", antialias=True) for part in images.split(1024)
        ]
        images = torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in resized])
    return images.contiguous()


def _folder(root: Path, image_size: tuple[int, int], channels: int) -> tuple[tuple[str, ...], Split, Split]:
    """A tree of class folders; `root/train` and `root/test` where present, else a fixed split of `root`."""
    if not root.is_dir():
        raise InputError(f"--data folder:{root}: there is no such folder; give one that holds a folder for each class")
    if (root / "train").is_dir() != (root / "test").is_dir():
        raise InputError(f"--data folder:{root} holds only one of train/ and test/; give both, or neither")
    if (root / "train").is_dir():
        classes, train_paths, train_labels = _scan(root / "train")
        test_classes, test_paths, test_labels = _scan(root / "test")
        if classes != test_classes:
            differ = ", ".join(sorted(set(classes) ^ set(test_classes)))
            raise InputError(f"{root}/train and {root}/test hold different class folders: {differ}; make them equal")
    else:
        classes, paths, labels = _scan(root)
        chosen = torch.zeros(len(paths), dtype=torch.bool)
        for label in range(len(classes)):
            of_class = (labels == label).nonzero().flatten()
            if len(of_class) < 2:
                raise InputError(f"{root / classes[label]} holds one image; give at least two, to train and to test")
            order = torch.randperm(len(of_class), generator=torch.Generator().manual_seed(0))
            chosen[of_class[order[: max(1, round(len(of_class) * TEST_FRACTION))]]] = True
        train_paths = [path for path, test in zip(paths, chosen, strict=True) if not test]
        test_paths = [path for path, test in zip(paths, chosen, strict=True) if test]
        train_labels, test_labels = labels[~chosen], labels[chosen]
    return (
        classes,
        _split(train_paths, train_labels, image_size, channels),
        _split(test_paths, test_labels, image_size, channels),
    )


def _scan(root: Path) -> tuple[tuple[str, ...], list[Path], Tensor]:
    """Class names, image paths and labels (n,) of a folder of class folders."""
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        raise InputError(f"{root} holds {len(classes)} class folders; at least two are needed, one a class")
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        if not found:
            raise InputError(f"{root / name} holds no image; remove the folder, or put images of the class into it")
        paths += found
        labels += [label] * len(found)
    return tuple(classes), paths, torch.tensor(labels)


def _split(paths: list[Path], labels: Tensor, image_size: tuple[int, int], channels: int) -> Split:
    if len(paths) * channels * image_size[0] * image_size[1] > MEMORY_LIMIT:
        return FileSplit(paths, labels, image_size, channels)
    images = torch.empty(len(paths), channels, *image_size, dtype=torch.uint8)  # written in place: no second copy

    def fill(index: int) -> None:
        images[index] = decode(paths[index], image_size, channels)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill, range(len(paths))):
            pass
    return TensorSplit(images, labels)


def _statistics(split: Split, sample: int = 10_000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel over up to `sample` images, evenly spread, a batch at a time if large."""
    n = len(split.labels)
    chunks = split.fetch(list(torch.arange(0, n, max(1, -(-n // sample))).split(256)), torch.device("cpu"))
    if isinstance(split, TensorSplit) and split.images.nbytes <= STATISTICS_LIMIT:
        std, mean = torch.std_mean(torch.cat(list(chunks)).float() / 255, (0, 2, 3))
    else:
        found = [torch.stack([each.flatten().bincount(minlength=256) for each in chunk.unbind(1)]) for chunk in chunks]
        counts, level = torch.stack(found).sum(0).double(), torch.arange(256) / 255
        total = counts[0].sum()
        mean = counts @ level.double() / total
        std = (counts * (level - mean[:, None]) ** 2).sum(1).div(total - 1).sqrt()
    return tuple(mean.tolist()), tuple(std.clamp(min=1e-3).tolist())
