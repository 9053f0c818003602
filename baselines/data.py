"""What a data set is: two splits of images, mostly uint8, their classes, their normalization.

Small sets live as one tensor on the device and are augmented there, batch by batch, with no worker process; larger
ones are decoded by a DataLoader as they are needed.

Legend: n images of a split, B images of a batch, C channels.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from baselines.errors import InputError
from baselines.images import Picture, decode
from baselines.resizing import STRETCHED, Resizing

AHEAD_LIMIT = 2**30  # bytes of batches that worker processes have ready
SCORED_VALUES, MOST_SCORED = 2**23, 512  # float32 values and images of a batch that is only scored: 32 MB


class Split(Protocol):
    """Images that can be fetched by index, as uint8."""

    @property
    def labels(self) -> Tensor:
        """(n,) int64, on the CPU."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image: C, height, width."""
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
    def shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def fingerprint(self) -> str:
        values = np.ascontiguousarray(self.images.cpu().numpy())
        digest = hashlib.sha256(values.data)  # no copy of what may be gigabytes
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()

    def fetch(self, chunks: list[Tensor], device: torch.device) -> Iterator[Tensor]:
        if self.images.device != device:  # moved once, then kept: the split is frozen for everybody else
            object.__setattr__(self, "images", self.images.to(device))
        for chunk in chunks:
            yield self.images[chunk.to(device, non_blocking=True)]


@dataclass(frozen=True)
class FileSplit(torch.utils.data.Dataset[Tensor]):
    """A split whose images are decoded when they are asked for, by a DataLoader."""

    paths: list[Picture]
    labels: Tensor
    image_size: tuple[int, int]
    channels: int
    resizing: Resizing = STRETCHED
    remarks: tuple[str, ...] = ()  # on some of the images

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, *self.image_size

    @property
    def fingerprint(self) -> str:
        facts = [describe(path) for path in self.paths]
        how = () if self.resizing == STRETCHED else (self.resizing.model_dump_json(),)
        known = (facts, self.labels.tolist(), self.image_size, *how, *self.remarks)
        return hashlib.sha256(repr(known).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return decode(self.paths[index], self.image_size, self.channels, self.resizing)

    def fetch(self, chunks: list[Tensor], device: torch.device) -> Iterator[Tensor]:
        largest = max(map(len, chunks), default=0) * math.prod(self.shape)
        held = AHEAD_LIMIT // max(largest, 1)
        workers = max(min(torch.get_num_threads(), held), 1)
        loader = torch.utils.data.DataLoader(
            self,
            batch_sampler=[chunk.tolist() for chunk in chunks],
            num_workers=workers,
            prefetch_factor=2 if held >= 2 * workers else 1,
        )
        try:
            for images in loader:
                yield images.to(device, non_blocking=True)
        except InputError as error:  # of a worker process, with its traceback in front of the sentence
            raise InputError(str(error).rsplit(f"{type(error).__name__}: ", 1)[-1].strip()) from error


def choose_batch(shape: tuple[int, ...], most: int = MOST_SCORED) -> int:
    """Images of a batch that is only scored: as many as fit into a fixed amount of memory, at most `most`."""
    return min(max(SCORED_VALUES // math.prod(shape), 1), most)


def describe(path: Picture) -> tuple[Any, ...]:
    """What changes when an image does, as far as that is seen without reading it."""
    if not isinstance(path, Path):
        return path.facts
    return str(path), path.stat().st_size, path.stat().st_mtime_ns


@dataclass(frozen=True)
class Data:
    """A data set, split, with the normalization its models use."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    mean: tuple[float, ...]  # per channel, of pixels in [0, 1]
    std: tuple[float, ...]
    normalized: bool = False  # whether images are float and were normalized so by whoever made them
    resizing: Resizing = STRETCHED  # how images of other sizes were brought to that of the model
    notes: tuple[str, ...] = ()  # what a person has to know of how it was read

    @cached_property
    def fingerprint(self) -> str:
        """Changes when images, labels or normalization do."""
        return repr((self.train.fingerprint, self.test.fingerprint, self.mean, self.std))

    def batches(
        self,
        split: Split,
        batch_size: int,
        device: torch.device,
        *,
        indices: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised float images (B, C, height, width) and labels (B,), on `device`, in order, as they are.

        Args:
            indices: which images, all by default.
        """
        order = torch.arange(len(split.labels)) if indices is None else indices
        chunks = list(order.split(batch_size))
        for chunk, images in zip(chunks, split.fetch(chunks, device), strict=True):
            yield self.normalize(images), split.labels[chunk].to(device, non_blocking=True)

    def normalize(self, images: Tensor) -> Tensor:
        """Images of a split (B, C, height, width), as models take them."""
        if self.normalized:
            return images
        values = torch.tensor((self.mean, self.std)).to(images.device, non_blocking=True)
        mean, std = values[..., None, None]
        pixels = images.to(torch.float32, copy=True)  # and in place: temporaries as large as a batch fragment the heap
        return pixels.div_(255).sub_(mean).div_(std)

    def with_normalization(self, mean: tuple[float, ...], std: tuple[float, ...]) -> "Data":
        """The same images, normalized as a model expects them that was trained elsewhere."""
        return replace(self, mean=mean, std=std)

    def with_classes(self, count: int) -> "Data":
        """The same images of a model that tells more classes apart than they have: those have numbers for names."""
        more = tuple(map(str, range(len(self.classes), count)))
        return replace(self, classes=(*self.classes, *more)) if more else self
