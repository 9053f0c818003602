"""Part of a data set, cut to given numbers of images of each class: an imbalanced one made from a balanced one.

Legend: n images of the part.
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from baselines.data import Data, Split
from baselines.decoding import FileSplit
from baselines.errors import InputError
from baselines.validation import hold_out
from baselines.views import Views

Count = Annotated[int, Field(gt=0, le=10**9)]  # images


class Subset(BaseModel):
    """How many images of each class are kept. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # In the order of the classes; one number holds for every class; none: all images
    train: tuple[Count, ...] = ()  # images of each class, or one number for all; validation is part of them
    test: tuple[Count, ...] = ()  # in the same way
    seed: int = Field(default=0, ge=0, lt=2**31)  # of the choice of images; that of the training has no part in it

    @field_validator("train", "test", mode="before")
    @classmethod
    def _one_for_all(cls, value: object) -> object:
        return (value,) if isinstance(value, int) else value


@dataclass(frozen=True)
class Part:
    """Some images of a split, as a split."""

    whole: Split
    indices: Tensor  # (n,) into `whole`, ascending

    @cached_property
    def labels(self) -> Tensor:
        return self.whole.labels[self.indices]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.whole.shape

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self.whole.fingerprint, self.indices.tolist())).encode()).hexdigest()

    @property
    def decodes(self) -> bool:
        return self.whole.decodes

    def fetch(
        self, chunks: list[Tensor], device: torch.device, views: Iterable[Views] | None = None
    ) -> Iterator[Tensor]:
        return self.whole.fetch([self.indices[chunk] for chunk in chunks], device, views)


def cut(data: Data, subset: Subset) -> Data:
    """The data set with the images that `subset` keeps: the same for every seed of a training.

    Its name tells how many images are left; its normalization stays that of the whole set.

    Raises:
        InputError: there are not as many counts as classes, or fewer images of a class than asked for.
    """
    train = _choose(data, "train", data.train, subset.train, subset.seed)
    test = _choose(data, "test", data.test, subset.test, subset.seed)
    name = f"{data.name} ({len(train.indices)} + {len(test.indices)} images)"
    return replace(data, name=name, train=train, test=test)


def _choose(data: Data, which: str, split: Split, counts: tuple[int, ...], seed: int) -> Part:
    if not counts:
        return Part(split, torch.arange(len(split.labels)))
    if len(counts) not in (1, len(data.classes)):
        raise InputError(
            f"[subset] {which} gives {len(counts)} numbers, but {data.name} has {len(data.classes)} classes "
            f"({', '.join(data.classes[:3])}, ...); give one number for each of them, in this order, or one for all"
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label, name in enumerate(data.classes):
        count = counts[label % len(counts)]
        of_class = (split.labels == label).nonzero().flatten()
        if count > len(of_class):
            raise InputError(
                f"[subset] {which} asks for {count} images of class {name!r}, but {data.name} has {len(of_class)}; "
                "ask for no more"
            )
        chosen.append(of_class[torch.randperm(len(of_class), generator=generator)[:count]])
    return Part(split, torch.cat(chosen).sort().values)


def manifest(data: Data, validation: float) -> bytes:
    """Every image of a data set that was cut, as CSV: `split`, `class`, `index` in the whole split, `path` of its file.

    Args:
        validation: share of the training images that is held out; they are listed as `validation`.

    Paths are known of splits that are read file by file; elsewhere they are empty.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["split", "class", "index", "path"])
    train, held = hold_out(data.train, validation)
    listed = {"train": (data.train, train), "validation": (data.train, held)}
    listed |= {"test": (data.test, torch.arange(len(data.test.labels)))}
    for name, (split, some) in listed.items():
        assert isinstance(split, Part)
        paths = split.whole.paths if isinstance(split.whole, FileSplit) else None
        for label, index in zip(split.labels[some].tolist(), split.indices[some].tolist(), strict=True):
            lines.writerow([name, data.classes[label], index, paths[index] if paths else ""])
    return text.getvalue().encode(errors="backslashreplace")  # file names need not be Unicode
