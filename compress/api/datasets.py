"""Images of the user's program -> a data set of ours.

A data set is whatever gives images and labels: a `DataLoader`, a map-style `Dataset` of torch, torchvision or Hugging
Face, a pair of arrays, or the name of one as the command line takes it. Images in bytes (PIL, uint8) are normalized as
the model asks; float images are taken as they are, since whoever made them has normalized them.

Legend: n images, B of a batch, C channels.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from baselines.data import Data, TensorSplit
from baselines.errors import InputError
from baselines.resizing import Resizing
from baselines.subset import Part
from baselines.views import Views
from compress.training.data import load_data

HELD_OUT = 0.2  # of images that come without others to score: these are never calibrated or trained on
IMAGE_KEYS, LABEL_KEYS = ("pixel_values", "image", "img", "images"), ("labels", "label", "fine_label")
PROBED = 8  # images whose values are part of a fingerprint
PLAIN = ((0.0,), (1.0,))  # of float images, where nobody says how they were normalized


@dataclass(frozen=True)
class DatasetSplit(Dataset[Tensor]):
    """Images of a data set of the user's, fetched as they are needed."""

    source: Any  # __len__ and __getitem__
    labels: Tensor
    shape: tuple[int, int, int]  # channels, height, width
    workers: int = 0

    @property
    def decodes(self) -> bool:
        """Views of the images are what its own transforms make."""
        return False

    @cached_property
    def fingerprint(self) -> str:
        some = torch.linspace(0, len(self) - 1, min(PROBED, len(self))).long().tolist()
        digest = hashlib.sha256(self.labels.numpy().tobytes())
        for index in some:
            digest.update(self[index].numpy().tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Tensor:
        """(C, height, width), uint8 or float32."""
        image = to_tensor(take_part(self.source[index], IMAGE_KEYS, 0), self.shape)
        if tuple(image.shape) != self.shape:
            got, wanted = ("x".join(map(str, shape)) for shape in (image.shape, self.shape))
            raise InputError(f"image {index} of the data set is {got}, the model takes {wanted}; resize it there")
        return image

    def fetch(
        self, chunks: list[Tensor], device: torch.device, views: Iterable[Views] | None = None
    ) -> Iterator[Tensor]:
        assert views is None
        batches = [chunk.tolist() for chunk in chunks]
        for images in DataLoader(self, batch_sampler=batches, num_workers=self.workers):
            yield images.to(device)


def make_data(
    given: Any, test: Any, shape: tuple[int, int, int], folder: Path, resizing: Resizing | None = None
) -> Data:  # fmt: skip
    """A data set from what the user has.

    Args:
        given: a name for `--data`, or images and labels as this module's description says.
        test: images that are scored, of the same kinds; None: a fifth of `given`, chosen by a fixed seed.
        shape: channels, height and width that the model takes.
        folder: where named data sets are downloaded to.
        resizing: how images of named ones get to the size of the model; None where nobody says.

    Raises:
        InputError: there are no labels, images of another size, or nothing that can be counted.
    """
    if isinstance(given, Data):
        return given
    if isinstance(given, str | Path):
        if test is not None:
            raise InputError("a named data set has its own test images; leave out test, or give both as data sets")
        return load_data(str(given), shape[1:], shape[0], folder, resizing=resizing)
    train: Any = make_split(given, shape)
    if test is not None:
        held_out: Any = make_split(test, shape)
    else:
        order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(0))
        count = max(round(HELD_OUT * len(order)), 1)
        held_out, train = Part(train, order[:count].sort()[0]), Part(train, order[count:].sort()[0])
    classes = name_classes(given, int(max(train.labels.max(), held_out.labels.max())) + 1)
    mean, std = find_normalization(given, shape[0])
    (first,) = train.fetch([torch.zeros(1, dtype=torch.long)], torch.device("cpu"))
    name = f"{type(unwrap(given)).__name__} (Python)"
    return Data(name, classes, train, held_out, mean, std, normalized=first.is_floating_point())


def make_split(given: Any, shape: tuple[int, int, int]) -> TensorSplit | DatasetSplit:
    """See `make_data`."""
    workers = given.num_workers if isinstance(given, DataLoader) else 0
    source = unwrap(given)
    if isinstance(source, Sequence) and len(source) == 2 and hasattr(source[0], "shape"):
        images = [to_tensor(image, shape) for image in source[0]]
        return TensorSplit(torch.stack(images), torch.as_tensor(np.asarray(source[1])).long().flatten())
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise InputError(
            f"{type(given).__name__} has no length, or its images no numbers; give a map-style data set, a DataLoader "
            "of one, or (images, labels)"
        )
    split = DatasetSplit(source, find_labels(source), shape, workers)
    if not len(split):
        raise InputError(f"{type(source).__name__} holds no images; give some")
    split[0]  # raises where its images do not fit
    return split


def unwrap(given: Any) -> Any:
    """The data set behind a DataLoader."""
    return given.dataset if isinstance(given, DataLoader) else given


def find_labels(source: Any) -> Tensor:
    """(n,) int64: as the data set lists them, or, where it does not, from each of its samples."""
    if isinstance(source, torch.utils.data.Subset):
        return find_labels(source.dataset)[torch.as_tensor(source.indices)]
    if isinstance(source, torch.utils.data.TensorDataset):
        return source.tensors[1].long().flatten()
    columns = getattr(source, "column_names", None) or ()  # of Hugging Face's datasets
    for name in ("targets", "labels", *LABEL_KEYS):
        values = source[name] if name in columns else getattr(source, name, None)
        if values is not None and not callable(values) and len(values) == len(source):
            return torch.as_tensor(np.asarray(values)).long().flatten()
    return torch.tensor([int(take_part(source[index], LABEL_KEYS, 1)) for index in range(len(source))])


def take_part(sample: Any, keys: Sequence[str], place: int) -> Any:
    """Image or label of a sample: a tuple, or a mapping as Hugging Face has it."""
    if isinstance(sample, Mapping):
        for key in keys:
            if key in sample:
                return sample[key]
        raise InputError(f"a sample of the data set holds {', '.join(map(str, sample))}, and none of {', '.join(keys)}")
    if isinstance(sample, Sequence) and len(sample) > place:
        return sample[place]
    raise InputError(f"a sample of the data set is {type(sample).__name__}; let it be (image, label)")


def to_tensor(image: Any, shape: tuple[int, int, int]) -> Tensor:
    """An image -> (C, height, width): PIL and uint8 stay bytes, everything else becomes float32."""
    if isinstance(image, Image.Image):
        image = np.array(image.convert("RGB" if shape[0] == 3 else "L"))
    values = torch.as_tensor(np.asarray(image)) if not isinstance(image, Tensor) else image
    if values.ndim == 2:
        values = values[None]
    elif values.ndim == 3 and values.shape[0] != shape[0] and values.shape[2] == shape[0]:
        values = values.permute(2, 0, 1)
    return values if values.dtype == torch.uint8 else values.float()


def name_classes(given: Any, least: int) -> tuple[str, ...]:
    """As the data set calls them, or by their numbers."""
    source: Any = unwrap(given)
    while isinstance(source, torch.utils.data.Subset):
        source = source.dataset
    names = getattr(source, "classes", None)
    if names is None and hasattr(source, "features"):
        feature = next((source.features[key] for key in LABEL_KEYS if key in source.features), None)
        names = getattr(feature, "names", None)
    if isinstance(names, Sequence) and not isinstance(names, str) and len(names) >= least:
        return tuple(map(str, names))
    return tuple(map(str, range(least)))


def find_normalization(given: Any, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of `Normalize` among the transforms of a torchvision data set; 0 and 1 where there is none."""
    source: Any = unwrap(given)
    while isinstance(source, torch.utils.data.Subset):
        source = source.dataset
    transform = getattr(source, "transform", None)
    for step in reversed(getattr(transform, "transforms", [transform])):
        mean, std = getattr(step, "mean", None), getattr(step, "std", None)
        if mean is not None and std is not None:
            found = [tuple(map(float, np.ravel(np.asarray(values)))) for values in (mean, std)]
            if all(len(values) == channels for values in found):
                return found[0], found[1]
    return PLAIN[0] * channels, PLAIN[1] * channels
