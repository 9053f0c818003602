"""Data sets as WebDataset writes them: tar files whose members `KEY.jpg` and `KEY.cls` are an image and its class.

    webdataset:FOLDER   webdataset:train-{000..146}.tar   webdataset:{train,val}-*.tar

Where each image lies is found once and kept (`listing.py`), and every image is read from its own place: so a training
has the exact order that it has with files, and goes on in the middle of an epoch. That takes uncompressed tar files on
a disk. Braces, and what is key and suffix in the name of a member, are read by the library `webdataset`.
"""

import glob
import importlib
import io
import os
import re
import tarfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from baselines import listing
from baselines.errors import InputError
from baselines.folders import ROLES, Files, describe_skipped
from baselines.images import list_suffixes
from baselines.tables import Tables

PREFIX = "webdataset:"
PACKAGE = "webdataset"
CLASSES = "classes.txt"  # beside the shards: names of the classes, one a line
NO_IMAGE, NO_LABEL, FURTHER = "samples without an image", "samples without .cls", "further images of one sample"
DIGITS = 7  # of the number of a class
Row = tuple[int, int, int, int, str]  # shard, first byte, bytes, class, name of the member


@dataclass(frozen=True)
class ShardImage:
    """One image of a shard, which is read when it is opened."""

    shard: Path
    stamp: Sequence[int]  # of the shard
    name: str
    start: int
    size: int  # bytes

    def __str__(self) -> str:
        return f"{self.name} in {self.shard}"

    def open(self) -> IO[bytes]:
        with self.shard.open("rb") as file:
            file.seek(self.start)
            return io.BytesIO(file.read(self.size))

    @property
    def facts(self) -> tuple[Any, ...]:
        """Change when the image does."""
        return str(self.shard), *self.stamp, self.start, self.size


@dataclass(frozen=True)
class ShardImages(Sequence[ShardImage]):
    """All images of some shards."""

    shards: tuple[Path, ...]
    stamps: Sequence[Sequence[int]]
    places: np.ndarray  # (n, 3): shard, first byte, bytes
    names: listing.Paths

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return listing.Chosen(self, np.arange(len(self))[index])
        shard, start, size = self.places[index].tolist()
        return ShardImage(self.shards[shard], self.stamps[shard], str(self.names[index]), start, size)


def read_shards(name: str) -> Tables:
    """The splits of a data set, by what `--data` calls it.

    Raises:
        InputError: the package is not installed, the shards are not files of this machine, or hold no labelled images.
    """
    shards = _find_shards(name)
    by_role: dict[str | None, list[Path]] = {}
    above = os.path.commonpath([shard.parent for shard in shards])
    for shard in shards:
        by_role.setdefault(_tell_role(shard.relative_to(above)), []).append(shard)
    train, held_out = by_role.get("train"), by_role.get("test") or by_role.get("validation")
    if [*by_role] == [None]:
        train = shards
    elif None in by_role or train is None:
        fault = f"the name of {by_role[None][0]} does not tell its split" if None in by_role else "none is called train"
        raise InputError(f"--data {name}: {fault}; let the names of all shards, or none, contain train, val or test")
    skipped: Counter[str] = Counter()
    parts = [_index(name, tuple(each), skipped) for each in (train, held_out) if each]
    classes = _name_classes(name, shards[0].parent, max(int(labels.max()) for _, labels in parts) + 1)
    first, *others = (Files(classes, images, labels) for images, labels in parts)
    notes = [f"{len(shards):,} shards", *describe_skipped(skipped)]
    if not others:
        notes.append("without shards whose names say test or val: a fixed fifth of each class is the test split")
    return Tables(first, others[0] if others else None, tuple(notes))


def _find_shards(name: str) -> list[Path]:
    try:
        shardlists: Any = importlib.import_module(f"{PACKAGE}.shardlists")
    except ImportError as error:
        raise InputError(
            f"--data {name} needs the package {PACKAGE}; install it with: pip install {PACKAGE}"
        ) from error
    given = name.removeprefix(PREFIX)
    if re.match(r"pipe:|\w+://", given):
        raise InputError(
            f"--data {name}: images are read one by one from their places in the shards, which takes files; download "
            "them, and give their folder"
        )
    if (folder := Path(os.path.abspath(os.path.expanduser(given)))).is_dir() and given:
        found = sorted(folder.rglob("*.tar"))
    else:
        patterns = map(os.path.expanduser, shardlists.expand_urls(given))
        paths = (path for each in patterns for path in (sorted(glob.glob(each)) if glob.has_magic(each) else [each]))
        found = [Path(os.path.abspath(path)) for path in paths]
    missing = [path for path in found if not path.is_file()]
    if missing or not found:
        what = f"{missing[0]} is no file" if missing else f"{given or 'an empty name'} matches no .tar file"
        raise InputError(
            f"--data {name}: {what}; give the folder of the shards, or a pattern such as train-{{000..146}}.tar"
        )
    return found


def _tell_role(shard: Path) -> str | None:
    """train, validation or test, by the name of a shard or else of a folder that not all share; None: neither tells."""
    for name in (shard.stem, shard.parent.name):
        roles = {ROLES[word] for word in re.findall("[a-z]+", name.lower()) if word in ROLES}
        if len(roles) == 1:
            return roles.pop()
    return None


def _index(name: str, shards: tuple[Path, ...], skipped: Counter[str]) -> tuple[ShardImages, torch.Tensor]:
    """The images of some shards and their classes (n,), from the cache while no shard changes."""
    started, stamps = time.time_ns(), [[*listing.stamp(shard, size=True)] for shard in shards]
    subject = "\n".join([PREFIX, *map(os.path.realpath, shards)])
    suffixes = list_suffixes()
    known = {"stamps": stamps, "suffixes": sorted(suffixes)}
    facts, arrays = listing.recall(subject) or ({}, {})
    if any(facts.get(key) != value for key, value in known.items()):
        left_out = Counter[str]()
        arrays = _list_images(name, shards, suffixes, left_out)
        facts = {**known, "left_out": left_out}
        if len(arrays["labels"]) >= listing.LARGE and listing.is_settled(stamps, started):
            listing.remember(subject, facts, arrays)
    skipped.update(facts["left_out"])
    names = listing.Paths(Path(), arrays["names"], arrays["ends"])
    return ShardImages(shards, stamps, arrays["places"], names), torch.from_numpy(arrays["labels"])


def _list_images(
    name: str, shards: tuple[Path, ...], suffixes: frozenset[str], left_out: Counter[str]
) -> dict[str, np.ndarray]:
    """Places, labels and packed names of all images."""
    listed = (_list_members(name, number, shard, suffixes, left_out) for number, shard in enumerate(shards))
    rows = [row for each in listed for row in each]
    if not rows:
        told = "; ".join(describe_skipped(left_out)) or "they are empty"
        raise InputError(f"--data {name}: the shards hold no image (KEY.jpg) with a class (KEY.cls): {told}")
    places, labels = np.split(np.array([row[:4] for row in rows], np.int64), [3], 1)
    names = listing.Paths.pack(Path(), (row[4] for row in rows))
    return {"places": places, "labels": labels[:, 0].copy(), "names": names.names, "ends": names.ends}


def _list_members(
    name: str, number: int, shard: Path, suffixes: frozenset[str], left_out: Counter[str]
) -> Iterator[Row]:
    """Each sample of a shard: its members follow one another and share a key."""
    split: Any = importlib.import_module(f"{PACKAGE}.tariterators").base_plus_ext
    image: tuple[int, int, str] | None = None
    label: int | None = None
    current: str | None = None

    def finish() -> Iterator[Row]:
        if current is None:
            return
        if image is None or label is None:
            left_out[NO_IMAGE if image is None else NO_LABEL] += 1
        else:
            yield number, image[0], image[1], label, image[2]

    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # or it would keep all of them
                key, extension = split(member.name)
                if not member.isfile() or key is None or member.name.startswith("__"):
                    continue
                if key != current:
                    yield from finish()
                    image, label, current = None, None, key
                if extension.lower() == "cls":
                    label = _read_class(name, archive, member)
                elif f".{extension.lower().rpartition('.')[2]}" in suffixes:
                    if image is not None:
                        left_out[FURTHER] += 1
                    image = image or (member.offset_data, member.size, member.name)
            yield from finish()
    except (tarfile.TarError, OSError) as error:
        raise InputError(
            f"--data {name}: {shard} is not a whole, uncompressed tar file ({error}); unpack or copy it again"
        ) from error


def _read_class(name: str, archive: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    file = archive.extractfile(member)
    text = file.read().strip() if file else b""
    if not text.isdigit() or len(text) > DIGITS:
        raise InputError(
            f"--data {name}: {member.name} holds {text[:20]!r}; it has to hold the number of a class, from 0"
        )
    return int(text)


def _name_classes(name: str, folder: Path, count: int) -> tuple[str, ...]:
    """As `classes.txt` beside the shards calls them, or by their numbers."""
    try:
        names = (folder / CLASSES).read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return tuple(map(str, range(count)))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--data {name}: {folder / CLASSES} cannot be read ({error}); write one class a line"
        ) from error
    found = tuple(each.strip() for each in names if each.strip())
    if len(found) < count:
        raise InputError(
            f"--data {name}: {folder / CLASSES} names {len(found)} classes, and there are {count}; add the others"
        )
    return found
