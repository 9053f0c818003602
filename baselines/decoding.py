"""Images that are decoded when they are needed, by worker processes that work ahead.

Which worker decodes a batch does not matter: its images, and the views of them, are told with its order.
"""

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.errors import InputError
from baselines.images import Picture, read
from baselines.resizing import STRETCHED, Resizing
from baselines.views import Views

AHEAD_LIMIT = 2**30  # bytes of batches that worker processes have ready


@dataclass(frozen=True)
class FileSplit(torch.utils.data.Dataset[Tensor]):
    """A split whose images are decoded when they are asked for, by the worker processes of a DataLoader."""

    paths: Sequence[Picture]
    labels: Tensor
    image_size: tuple[int, int]
    channels: int
    resizing: Resizing = STRETCHED
    remarks: tuple[str, ...] = ()  # on some of the images

    @property
    def decodes(self) -> bool:
        return True

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, *self.image_size

    @property
    def fingerprint(self) -> str:
        how = () if self.resizing == STRETCHED else (self.resizing.model_dump_json(),)
        digest = hashlib.sha256(b"([")  # of repr((facts of all paths, labels, ...)), which would be large
        for index, path in enumerate(self.paths):
            digest.update(f"{', ' if index else ''}{describe(path)!r}".encode())
        known = repr((self.labels.tolist(), self.image_size, *how, *self.remarks))
        digest.update(f"], {known.removeprefix('(')}".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, batch: tuple[np.ndarray, Views | None]) -> list[Tensor]:
        """Images (C, height, width), or views (height, width, C), which need not be put into another order here."""
        chunk, views = batch
        found = []
        for place, index in enumerate(chunk.tolist()):
            how = self.resizing if views is None else views.take(place, self.resizing.interpolation)
            image, _ = read(self.paths[index], self.image_size, self.channels, how)
            found.append(image if views is None else image.permute(1, 2, 0))
        return found

    def fetch(
        self, chunks: list[Tensor], device: torch.device, views: Iterable[Views] | None = None
    ) -> Iterator[Tensor]:
        largest = max(map(len, chunks), default=0) * math.prod(self.shape)
        held = AHEAD_LIMIT // max(largest, 1)
        workers = max(min(torch.get_num_threads(), held), 1)
        batches: Any = zip((chunk.numpy() for chunk in chunks), views or itertools.repeat(None), strict=False)
        loader = torch.utils.data.DataLoader(
            self,
            batch_sampler=batches,
            num_workers=workers,
            prefetch_factor=2 if held >= 2 * workers else 1,
            pin_memory=device.type == "cuda" and torch.cuda.is_available(),
        )
        try:
            for images in loader:
                images = images.to(device, non_blocking=True)
                yield images if views is None else images.permute(0, 3, 1, 2)
        except InputError as error:  # of a worker process, with its traceback in front of the sentence
            raise InputError(str(error).rsplit(f"{type(error).__name__}: ", 1)[-1].strip()) from error


def describe(path: Picture) -> tuple[Any, ...]:
    """What changes when an image does, as far as that is seen without reading it."""
    if not isinstance(path, Path):
        return path.facts
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns
