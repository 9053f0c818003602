"""Data sets: `digits`, `cifar10`, `cifar100`, `folder:PATH`.

Small sets live as one uint8 tensor on the device and are augmented there, batch by batch, with no worker
process; larger ones (over `MEMORY_LIMIT`) are decoded by a DataLoader as they are needed.

Legend: n images of a split, B images of a batch, C channels.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from baselines.augment import random_crop, random_flip
from baselines.errors import InputError

MEMORY_LIMIT = 4 * 2**30  # bytes of one split held as a tensor
TEST_FRACTION = 0.2  # of data sets that come without a test split
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"})
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP", "TIFF")  # whatever the suffix; PostScript would be executed


class Split(Protocol):
    """Images that can be fetched by index, as uint8."""

    @property
    def labels(self) -> Tensor:
        """(n,) int64, on the CPU."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the images do."""
        ...

    def fetch(self, chunks: list[Tensor], device: torch.device) -> Iterator[Tensor]:
        """For each tensor of indices, the images (B, C, height, width) uint8 on `device`."""
        ...


@dataclass(frozen=True)
class TensorSplit:
    """A split that lies in memory."""

    images: Tensor  # (n, C, height, width) uint8
    labels: Tensor

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.images.cpu().numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()

    def fetch(self, chunks: list[Tensor], device: torch.device) -> Iterator[Tensor]:
        if self.images.device != device:  # moved once, then kept: the split is frozen for everybody else
            object.__setattr__(self, "images", self.images.to(device))
        for chunk in chunks:
            yield self.images[chunk.to(device)]


@dataclass(frozen=True)
class FileSplit(torch.utils.data.Dataset[Tensor]):
    """A split whose images are decoded when they are asked for, by a DataLoader."""

    paths: list[Path]
    labels: Tensor
    image_size: tuple[int, int]
    channels: int

    @property
    def fingerprint(self) -> str:
        facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in self.paths]
        return hashlib.sha256(repr((facts, self.labels.tolist(), self.image_size)).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return decode(self.paths[index], self.image_size, self.channels)

    def fetch(self, chunks: list[Tensor], device: torch.device) -> Iterator[Tensor]:
        loader = torch.utils.data.DataLoader(
            self, batch_sampler=[chunk.tolist() for chunk in chunks], num_workers=torch.get_num_threads()
        )
        try:
            for images in loader:
                yield images.to(device, non_blocking=True)
        except InputError as error:  # of a worker process, with its traceback in front of the sentence
            raise InputError(str(error).rsplit("InputError: ", 1)[-1].strip()) from error


@dataclass(frozen=True)
class Data:
    """A data set, split, with the normalisation its models use."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    mean: tuple[float, ...]  # per channel, of pixels in [0, 1]
    std: tuple[float, ...]

    @cached_property
    def fingerprint(self) -> str:
        """Changes when images, labels or normalisation do."""
        return repr((self.train.fingerprint, self.test.fingerprint, self.mean, self.std))

    def batches(
        self,
        split: Split,
        batch_size: int,
        device: torch.device,
        *,
        indices: Tensor | None = None,
        shuffle: torch.Generator | None = None,
        crop_padding: int = 0,
        flip: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised float images (B, C, height, width) and labels (B,), on `device`.

        Args:
            indices: which images, all by default.
            shuffle: source of all randomness (order, crop, flip); without it images come in order, as they are.
                Shuffled batches are all full, the rest of an epoch is dropped.
        """
        order = torch.arange(len(split.labels)) if indices is None else indices
        if shuffle is not None:
            order = order[torch.randperm(len(order), generator=shuffle)]
            order = order[: len(order) // batch_size * batch_size or len(order)]
        chunks = list(order.split(batch_size))
        mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (self.mean, self.std))
        for chunk, images in zip(chunks, split.fetch(chunks, device), strict=True):
            if shuffle is not None:
                images = random_crop(images, crop_padding, shuffle)
                images = random_flip(images, shuffle) if flip else images
            yield (images.float() / 255 - mean) / std, split.labels[chunk].to(device)

    def normalised(self, mean: tuple[float, ...], std: tuple[float, ...]) -> "Data":
        """The same images, normalised as a model expects them that was trained elsewhere."""
        return replace(self, mean=mean, std=std)


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
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda path: decode(path, image_size, channels), paths, chunksize=64))
    return TensorSplit(torch.stack(images), labels)


def decode(path: Path, image_size: tuple[int, int], channels: int) -> Tensor:
    """One image file -> (C, height, width) uint8.

    Raises:
        InputError: the file is no image, is cut short, or is too large to decode safely.
    """
    height, width = image_size
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            converted = image.convert("RGB" if channels == 3 else "L")
            if converted.size != (width, height):
                converted = converted.resize((width, height), Image.Resampling.BILINEAR)
            pixels: Any = np.array(converted)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not a readable image ({error}); repair or remove it") from error
    return torch.from_numpy(pixels).view(height, width, channels).permute(2, 0, 1)


def _statistics(split: Split, sample: int = 10_000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel over up to `sample` images, evenly spread."""
    n = len(split.labels)
    indices = torch.arange(0, n, max(1, -(-n // sample)))
    images = torch.cat(list(split.fetch(list(indices.split(256)), torch.device("cpu")))).float() / 255
    std, mean = torch.std_mean(images, (0, 2, 3))
    return tuple(mean.tolist()), tuple(std.clamp(min=1e-3).tolist())
