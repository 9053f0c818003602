"""A folder, tables or shards of images -> the two splits of a data set, decoded into memory where they fit."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from baselines.data import Split, TensorSplit
from baselines.decoding import FileSplit
from baselines.errors import InputError
from baselines.folders import Files, count_hidden, describe_skipped, find_splits, scan
from baselines.images import DEEP, REPAIR, RESIZED, TURNED, ImageError, Picture, describe, read
from baselines.resizing import Resizing
from baselines.tables import Tables

MEMORY_LIMIT = 4 * 2**30  # bytes of one split held as a tensor
TEST_FRACTION = 0.2  # of images that come without a test split
LOOKED_AT = 256  # images of a split that is decoded later
NAMED = 10  # images that cannot be used, in one message


def read_folder(
    root: Path, image_size: tuple[int, int], channels: int, resizing: Resizing, *, skip: bool = False
) -> tuple[tuple[str, ...], Split, Split, tuple[str, ...]]:  # fmt: skip
    """A tree of class folders; the splits that its folders are, else a fixed split of its images.

    Args:
        skip: leave out images that cannot be read, instead of refusing them.

    Returns:
        Classes, training and test images, and what a person has to know of how they were read.

    Raises:
        InputError: there is no such folder, it holds no classes, or images that cannot be read.
    """
    if not root.is_dir():
        raise InputError(f"--data folder:{root}: there is no such folder; give one that holds a folder for each class")
    skipped: Counter[str] = Counter()
    splits = find_splits(root)
    if splits:
        count_hidden(root, skipped)
        train, test = scan(splits.train, skipped), scan(splits.test, skipped)
        if train.classes != test.classes:
            differ = ", ".join(sorted(set(train.classes) ^ set(test.classes)))
            raise InputError(
                f"{splits.train} and {splits.test} hold different class folders: {differ}; make them equal"
            )
    else:
        train, test = _divide(root, scan(root, skipped))
    read, remarks = _read_parts((train, test), image_size, channels, resizing, skip=skip)
    notes = [*(splits.notes if splits else ()), *describe_skipped(skipped), *remarks]
    return train.classes, *read, tuple(notes)


def read_set(
    name: str,
    tables: Tables,
    image_size: tuple[int, int],
    channels: int,
    resizing: Resizing,
    *,
    skip: bool = False,
) -> tuple[tuple[str, ...], Split, Split, tuple[str, ...]]:
    """As `read_folder`, of a data set called `name` whose images are no files of their own."""
    parts = (tables.train, tables.test) if tables.test else _divide(name, tables.train)
    read, remarks = _read_parts(parts, image_size, channels, resizing, skip=skip)
    return tables.train.classes, *read, (*tables.notes, *remarks)


def _read_parts(
    parts: tuple[Files, Files], image_size: tuple[int, int], channels: int, resizing: Resizing, *, skip: bool
) -> tuple[tuple[Split, Split], list[str]]:
    """Both splits, and what has to be said of their images; see `read_folder`."""
    left: list[str] = []
    if skip:
        parts, left = _leave_out_unreadable(parts, image_size, channels, resizing)
    read, remarks = _read_images(parts, image_size, channels, resizing)
    return read, [*left, *remarks]


def _divide(root: Path | str, files: Files) -> tuple[Files, Files]:
    """Training and test images of each class, chosen by a fixed seed."""
    chosen = torch.zeros(len(files.paths), dtype=torch.bool)
    for label, name in enumerate(files.classes):
        of_class = (files.labels == label).nonzero().flatten()
        if len(of_class) < 2:
            raise InputError(f"{root}/{name} holds one image; give at least two, to train and to test")
        order = torch.randperm(len(of_class), generator=torch.Generator().manual_seed(0))
        chosen[of_class[order[: max(1, round(len(of_class) * TEST_FRACTION))]]] = True
    return files.take(~chosen), files.take(chosen)


def _leave_out_unreadable(
    parts: tuple[Files, Files], image_size: tuple[int, int], channels: int, resizing: Resizing
) -> tuple[tuple[Files, Files], list[str]]:  # fmt: skip
    """The files that can be read, each of them tried, and a sentence on the others.

    Raises:
        InputError: none is left of a class.
    """
    kept: list[Files] = []
    faults: list[ImageError] = []
    for files in parts:
        tried = list(_decode_all(files.paths, None, image_size, channels, resizing))
        faults += [each for each in tried if isinstance(each, ImageError)]
        sound = torch.tensor([not isinstance(each, ImageError) for each in tried])
        lost = set(range(len(files.classes))) - set(files.labels[sound].tolist())
        if lost:
            raise InputError(f"{_name_faults(faults)}; of {files.classes[min(lost)]} none is left")
        kept.append(files.take(sound))
    said = [f"left out: {_name_faults(faults)}"] if faults else []
    return (kept[0], kept[1]), said


def _read_images(
    parts: tuple[Files, Files], image_size: tuple[int, int], channels: int, resizing: Resizing
) -> tuple[tuple[Split, Split], list[str]]:
    """Both splits, and remarks on their images; of those that are decoded later, on some.

    Raises:
        InputError: images cannot be read; names them.
    """
    splits: list[Split] = []
    remarks: Counter[str] = Counter()
    faults: list[ImageError] = []
    seen = 0
    for files in parts:
        if len(files.paths) * channels * math.prod(image_size) <= MEMORY_LIMIT:
            images, looked_at = torch.empty(len(files.paths), channels, *image_size, dtype=torch.uint8), files.paths
            splits.append(TensorSplit(images, files.labels))
        else:
            images, looked_at = None, files.paths[:: -(-len(files.paths) // LOOKED_AT)]
        found: set[str] = set()
        for each in _decode_all(looked_at, images, image_size, channels, resizing):
            if isinstance(each, ImageError):
                faults.append(each)
            else:
                remarks.update(each)
                found |= each
        if images is None:
            kept = tuple(sorted(found & {TURNED, DEEP}))
            splits.append(FileSplit(files.paths, files.labels, image_size, channels, resizing, kept))
        seen += len(looked_at)
    if faults:
        them = "them" if len(faults) > 1 else "it"
        remedy = faults[0].remedy if len({each.remedy for each in faults}) == 1 else REPAIR
        said = f"{_name_faults(faults)}; {remedy}" if len(faults) > 1 else str(faults[0])
        raise InputError(f"{said}, or leave {them} out with --skip-unreadable")
    said = describe(remarks, seen)
    if remarks[RESIZED]:
        said.append(f"{remarks[RESIZED]:,} of {seen:,} images: {resizing.describe(image_size)}")
    return (splits[0], splits[1]), said


def _decode_all(
    paths: Sequence[Picture], images: Tensor | None, image_size: tuple[int, int], channels: int, resizing: Resizing
) -> Iterator[frozenset[str] | ImageError]:
    """The remarks on each image, or what is wrong with it; its pixels go into `images`, if given."""

    def fill(index: int) -> frozenset[str] | ImageError:
        try:
            pixels, remarks = read(paths[index], image_size, channels, resizing)
        except ImageError as error:
            return error
        if images is not None:
            images[index] = pixels  # in place: no second copy
        return remarks

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield from pool.map(fill, range(len(paths)))


def _name_faults(faults: list[ImageError]) -> str:
    """The first of all images that cannot be used."""
    named = "; ".join(f"{each.path} ({each.fault})" for each in faults[:NAMED])
    others = f"; and {len(faults) - NAMED:,} more" if len(faults) > NAMED else ""
    return f"{len(faults):,} image{'s' if len(faults) > 1 else ''} cannot be used: {named}{others}"
