"""What a data set is: two splits of images, mostly uint8, their classes, their normalization.

Small sets live as one tensor on the device and are augmented there, batch by batch, with no worker process; larger
ones are decoded as they are needed (`decoding.py`).

Legend: n images of a split, B images of a batch, C channels.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from baselines.resizing import STRETCHED, Resizing
from baselines.views import Views

CACHED_VALUES = 2**17  # float32 values, 512 KB, that stay in the cache of a core from one operation to the next
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

    @property
    def decodes(self) -> bool:
        """Whether images are decoded when they are fetched, and views of them can be."""
        ...

    def fetch(
        self, chunks: list[Tensor], device: torch.device, views: Iterable[Views] | None = None
    ) -> Iterator[Tensor]:
        """For each tensor of indices, the images (B, C, height, width) uint8 on `device`.

        Args:
            views: of the images of each chunk, to be seen instead of them; only where the split decodes.
        """
        ...


@dataclass(frozen=True)
class TensorSplit:
    """A split that lies in memory."""

    images: Tensor  # (n, C, height, width) uint8
    labels: Tensor

    @property
    def decodes(self) -> bool:
        return False

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

    def fetch(
        self, chunks: list[Tensor], device: torch.device, views: Iterable[Views] | None = None
    ) -> Iterator[Tensor]:
        assert views is None
        if self.images.device != device:  # moved once, then kept: the split is frozen for everybody else
            object.__setattr__(self, "images", self.images.to(device))
        for chunk in chunks:
            yield self.images[chunk.to(device, non_blocking=True)]


def _normalize_in_cache(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(images / 255 - mean) / std in parts: a large batch as a whole would go through memory four times.

    Args:
        mean: and `std`, (C, 1, 1).
    """
    batch, channels, height, width = images.shape
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    if last:  # rows of width * C, which are long enough for vectors
        images = images.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
        mean, std = (each.flatten().repeat(width) for each in (mean, std))
    pixels = torch.empty(images.shape)
    some = max(CACHED_VALUES // (channels * height * width), 1)
    for found, part in zip(pixels.split(some), images.split(some), strict=True):
        found.copy_(part).div_(255).sub_(mean).div_(std)
    return pixels.view(batch, height, width, channels).permute(0, 3, 1, 2) if last else pixels


def choose_batch(shape: tuple[int, ...], most: int = MOST_SCORED) -> int:
    """Images of a batch that is only scored: as many as fit into a fixed amount of memory, at most `most`."""
    return min(max(SCORED_VALUES // math.prod(shape), 1), most)


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
        if images.device.type == "cpu":
            return _normalize_in_cache(images, mean, std)
        pixels = images.to(torch.float32, copy=True)  # and in place: temporaries as large as a batch fragment the heap
        return pixels.div_(255).sub_(mean).div_(std)

    def with_normalization(self, mean: tuple[float, ...], std: tuple[float, ...]) -> "Data":
        """The same images, normalized as a model expects them that was trained elsewhere."""
        return replace(self, mean=mean, std=std)

    def with_classes(self, count: int) -> "Data":
        """The same images of a model that tells more classes apart than they have: those have numbers for names."""
        more = tuple(map(str, range(len(self.classes), count)))
        return replace(self, classes=(*self.classes, *more)) if more else self
