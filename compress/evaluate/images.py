"""The images that an evaluation scores and times: test images in an order drawn once, or noise."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from baselines.data import Data, choose_batch
from compress import files
from compress.measure.environment import release_freed_memory

TIMED_IMAGES = 256  # that latency goes through
MIN_BATCHES, MAX_BATCHES = 8, 64
LARGEST_BATCH = 250  # that is scored
LARGE = 2**23  # bytes of a batch


@dataclass(frozen=True)
class Images:
    """n test images; only a few batches of them are in memory at a time.

    Args:
        data: a data set, whose test images count.
        noise: instead of `data`: (n, C, height, width) float32, without labels.
        order: indices of the images that count, shuffled, so that any part of them is a random sample.
    """

    data: Data | None
    noise: np.ndarray | None
    order: Tensor

    def __len__(self) -> int:
        return len(self.order)

    @property
    def name(self) -> str:
        return self.data.name if self.data else "noise"

    @cached_property
    def fingerprint(self) -> str:
        return files.key(self.data.fingerprint if self.data else self.noise, self.order.tolist())

    @property
    def classes(self) -> tuple[str, ...]:
        return self.data.classes if self.data else ()

    @cached_property
    def labels(self) -> np.ndarray | None:
        """Class of each image (n,), in the order of `order`; None for noise."""
        return self.data.test.labels[self.order].cpu().numpy() if self.data else None

    @property
    def batch_size(self) -> int:
        """Images of a scored batch: as many as fit into a fixed amount of memory."""
        shape = self.data.test.shape if self.data else self.noise.shape[1:] if self.noise is not None else ()
        return choose_batch(shape, LARGEST_BATCH)

    def batches(self, batch_size: int, which: Sequence[int] | Tensor | None = None) -> Iterator[np.ndarray]:
        """Normalized images (B, C, height, width) float32; the last batch may be smaller.

        Args:
            which: positions in the order; all by default.
        """
        chosen = self.order if which is None else self.order[torch.as_tensor(which)]
        if self.data is None:
            assert self.noise is not None
            yield from (self.noise[part.numpy()] for part in chosen.split(batch_size))
            return
        batches = self.data.batches(self.data.test, batch_size, torch.device("cpu"), indices=chosen)
        for images, _ in batches:
            yield images.numpy()
            if images.nbytes >= LARGE:  # or each would leave its size behind on the heap
                release_freed_memory()

    def timed(self, batch_size: int) -> list[np.ndarray]:
        """Full batches that latency goes through; images come again where there are fewer than a batch holds."""
        wanted = min(max(TIMED_IMAGES // batch_size, MIN_BATCHES), MAX_BATCHES)
        positions = torch.arange(len(self)).repeat(-(-batch_size // len(self)))
        whole = max(len(positions) // batch_size, 1)
        return [*self.batches(batch_size, positions[: batch_size * min(wanted, whole)])]


def take_test_images(data: Data, count: int | None = None) -> Images:
    """The test images of a data set, shuffled by a fixed seed; `count` of them, all by default."""
    order = torch.randperm(len(data.test.labels), generator=torch.Generator().manual_seed(0))
    return Images(data, None, order[:count])


def take_noise(images: np.ndarray) -> Images:
    """Images (n, C, height, width) without labels."""
    return Images(None, images, torch.arange(len(images)))
