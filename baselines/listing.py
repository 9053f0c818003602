"""Lists of files that are long: a few bytes a path in memory, and kept on disk, so that a folder is walked once.

Worker processes that are forked share such a list; of a million `Path` objects each would soon have its own copy, since
counting references writes to them.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from baselines.images import Picture

VERSION = 1  # of the files of the cache
LARGE = 10_000  # files, from which a list is kept on disk
SETTLED_NS = 2 * 10**9  # age of a change, from which the clock of every file system tells a later one apart from it
Kind = TypeVar("Kind")


class Paths(Sequence[Path]):
    """Paths of files below `root`, put together when they are asked for."""

    def __init__(self, root: Path, names: np.ndarray, ends: np.ndarray):
        """`names` are the bytes of all paths below `root`, one behind another, `ends` where each ends."""
        self.root, self.names, self.ends = root, names, ends

    @classmethod
    def pack(cls, root: Path, paths: Iterable[str]) -> "Paths":
        """Of paths relative to `root`."""
        names, lengths = bytearray(), []
        for path in paths:
            name = os.fsencode(path)
            names += name
            lengths.append(len(name))
        return cls(root, np.frombuffer(names, np.uint8), np.cumsum(lengths, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Chosen(self, np.arange(len(self))[index])
        end = range(len(self))[index]
        start = self.ends[end - 1] if end else 0
        return self.root / os.fsdecode(self.names[start : self.ends[end]].tobytes())


class Chosen(Sequence[Kind], Generic[Kind]):
    """Some elements of a sequence, without a list of them."""

    def __init__(self, whole: Sequence[Kind], rows: np.ndarray):
        self.whole, self.rows = whole, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Chosen(self.whole, self.rows[index])
        return self.whole[int(self.rows[index])]


@dataclass(frozen=True)
class Files:
    """The images of one split."""

    classes: tuple[str, ...]
    paths: Sequence[Picture]
    labels: Tensor  # (n,) int64

    def take(self, chosen: Tensor) -> "Files":
        """Those of a mask (n,)."""
        rows = chosen.nonzero().flatten().numpy()
        return Files(self.classes, Chosen(self.paths, rows), self.labels[chosen])


def restore(
    root: Path,
    facts: dict[str, Any],
    arrays: dict[str, np.ndarray],
    suffixes: frozenset[str],
    skipped: Counter[str],
) -> Files | None:
    """The images as they were listed before; None where a folder has changed since, or is gone."""
    try:
        if facts["suffixes"] != sorted(suffixes):
            return None
        if any(stamp(root / name) != tuple(times) for name, times in facts["folders"].items()):
            return None
        paths = Paths(root, arrays["names"], arrays["ends"])
        skipped.update(facts["left_out"])
        return Files(tuple(facts["classes"]), paths, label(facts["counts"]))
    except (OSError, KeyError):
        return None


def label(counts: Sequence[int]) -> Tensor:
    """(n,) int64: so many images of each class."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def recall(subject: str) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """What `remember` kept of a subject; None where that is nothing, or damaged."""
    try:
        with _locate(subject).open("rb") as file, np.load(file, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
        facts = json.loads(arrays.pop("facts").tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return (facts, arrays) if facts.get("subject") == [VERSION, subject] else None


def remember(subject: str, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Keeps facts (JSON) and arrays of a subject in the cache, in place of older ones; a place that cannot be written
    is no error."""
    text = json.dumps({**facts, "subject": [VERSION, subject]}).encode()
    content: dict[str, Any] = {**arrays, "facts": np.frombuffer(text, np.uint8)}
    place = _locate(subject)
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, suffix=".tmp", delete=False) as file:
            try:
                np.savez_compressed(file, **content)
                file.close()
                os.replace(file.name, place)
            except BaseException:
                file.close()
                os.unlink(file.name)
                raise


def stamp(path: Path, *, size: bool = False) -> tuple[int, ...]:
    """Changes with a file, or the entries of a folder, even if somebody sets its time of modification back."""
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns, *((status.st_size,) if size else ())


def is_settled(stamps: Iterable[Sequence[int]], started: int) -> bool:
    """Whether no stamp is so young that a change after the time `started`, in nanoseconds, could be missed."""
    return max(max(each[:2]) for each in stamps) < started - SETTLED_NS


def _locate(subject: str) -> Path:
    return find_cache() / "listings" / f"{hashlib.sha256(os.fsencode(subject)).hexdigest()[:32]}.npz"


def find_cache() -> Path:
    """Below the home folder; in a temporary one for a user who has none, as container platforms run programs."""
    try:
        place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        place = Path(tempfile.gettempdir()) / f"cache-{os.getuid()}"
    return place / "compress"
