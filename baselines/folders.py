"""Trees of class folders: which folders are the splits, which files are images, and what is left out.

Legend: n images of a split.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from baselines import listing
from baselines.errors import InputError
from baselines.images import is_image, list_suffixes
from baselines.listing import Files

ROLES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
FILLERS = {"", "data", "dataset", "folder", "image", "images", "img", "imgs", "set", "split"}  # images_train, train_set
SYSTEM = {"__macosx", "thumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin"}
KINDS = 6  # of files left out that are told apart
DANGLING, SHUT, NO_IMAGE = (
    "links to nothing",
    "folders that cannot be opened",
    "files without suffix that are no images",
)


@dataclass(frozen=True)
class Splits:
    """The folders of the splits of a data set, and what has to be said of how they were chosen."""

    train: Path
    test: Path
    notes: tuple[str, ...]


def find_splits(root: Path) -> Splits | None:
    """The folders of the training and the test images below `root`; None: its folders are classes.

    Raises:
        InputError: there is one of them only, or it is not clear which they are.
    """
    folders = list_folders(root)
    by_role: dict[str, list[Path]] = {}
    for folder in folders:
        if role := tell_role(folder.name):
            by_role.setdefault(role, []).append(folder)
    chosen = {role: _choose(root, role, found) for role, found in by_role.items()}
    train, held_out = chosen.get("train"), chosen.get("test") or chosen.get("validation")
    if train and held_out and (train == root / "train" or (list_folders(train) and list_folders(held_out))):
        return Splits(train, held_out, tuple(_describe(train, held_out, chosen.get("validation"))))
    if not chosen and (alike := _find_alike(folders)):
        return Splits(*alike, tuple(_describe(*alike, None)))
    signs = (
        any(folder.name in ("train", "test") for folder in chosen.values()),
        all(map(list_folders, chosen.values())),  # classes hold images
        sum(map(len, by_role.values())) == len(folders),
    )
    if chosen and sum(signs) >= 2:
        there = " and ".join(f"{folder.name}/" for folder in chosen.values())
        raise InputError(
            f"--data folder:{root} holds only one of train/ and test/ (or val/), {there}; give both, or neither"
        )
    return None


def list_folders(root: Path) -> list[Path]:
    """Those inside of `root` that may be classes or splits, by name."""
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not _is_hidden(entry.name))


def scan(root: Path, skipped: Counter[str]) -> Files:
    """The images of a folder of class folders, links followed; long lists come from the cache while no folder changes.

    Args:
        skipped: counts, by reason, the files that are left out.

    Raises:
        InputError: there are fewer than two class folders, or one holds no image.
    """
    suffixes, subject = list_suffixes(), os.path.realpath(root)
    if (kept := listing.recall(subject)) is not None and (files := listing.restore(root, *kept, suffixes, skipped)):
        return files
    started, left_out, stamps = time.time_ns(), Counter[str](), {"": listing.stamp(root)}
    folders = list_folders(root)
    if len(folders) < 2:
        deeper = f"; give {folders[0]}, if it holds them" if folders else ""
        raise InputError(f"{root} holds {len(folders)} class folders; at least two are needed, one a class{deeper}")
    count_hidden(root, left_out)
    beside = [entry for entry in root.iterdir() if entry.suffix.lower() in suffixes and not _is_hidden(entry.name)]
    if beside:
        left_out["images beside the class folders"] += len(beside)
    names: list[str] = []
    counts: list[int] = []
    for folder in folders:
        above = len(str(folder)) - len(folder.name)
        found = sorted(_walk(folder, suffixes, left_out, stamps, above))
        if not found:
            raise InputError(f"{folder} holds no image; remove the folder, or put images of the class into it")
        names += (str(path)[above:] for path in found)
        counts.append(len(found))
    skipped.update(left_out)
    paths, classes = listing.Paths.pack(root, names), tuple(folder.name for folder in folders)
    unsure = left_out[DANGLING] + left_out[SHUT] + left_out[NO_IMAGE] or not all(map(_tell_suffix, names))
    if len(names) >= listing.LARGE and listing.is_settled(stamps.values(), started) and not unsure:
        facts = {"suffixes": sorted(suffixes), "folders": stamps, "classes": classes, "counts": counts}
        listing.remember(subject, {**facts, "left_out": left_out}, {"names": paths.names, "ends": paths.ends})
    return Files(classes, paths, listing.label(counts))


def count_hidden(root: Path, skipped: Counter[str]) -> None:
    """Counts the hidden files and folders directly inside of a folder, which are left out."""
    for entry in filter(lambda entry: _is_hidden(entry.name), root.iterdir()):
        skipped[f"hidden or system {'folders' if entry.is_dir() else 'files'}"] += 1


def describe_skipped(skipped: Counter[str]) -> list[str]:
    """What was left out and why, in one sentence; none where nothing was."""
    ordered = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{reason} ({count:,})" for reason, count in ordered[:KINDS]]
    if others := sum(count for _, count in ordered[KINDS:]):
        told.append(f"others ({others:,})")
    return [f"left out: {', '.join(told)}"] if told else []


def tell_role(name: str) -> str | None:
    """train, validation or test; None for a folder that may be a class."""
    roles = {ROLES.get(word) for word in _list_words(name) - FILLERS}
    return roles.pop() if len(roles) == 1 else None


def _list_words(name: str) -> set[str]:
    """`TrainSet_left` -> train, left."""
    return {word.lower().removesuffix("set") for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", name)}


def _find_alike(folders: list[Path]) -> tuple[Path, Path] | None:
    """The training and the test folder of two, such as seg_train/ and seg_test/, that hold folders of the same names.

    Where each holds nothing but a folder of its own name, as archives unpack, that one counts.
    """
    by_role: dict[str, Path] = {}
    for folder in folders:
        for role in {ROLES[word] for word in _list_words(folder.name) & ROLES.keys()}:
            by_role[role] = folder / folder.name if list_folders(folder) == [folder / folder.name] else folder
    train, held_out = by_role.get("train"), by_role.get("test") or by_role.get("validation")
    if len(folders) != 2 or len(by_role) != 2 or not train or not held_out or train == held_out:
        return None
    names, others = ([entry.name for entry in list_folders(each)] for each in (train, held_out))
    return (train, held_out) if len(names) > 1 and names == others else None


def _choose(root: Path, role: str, found: list[Path]) -> Path:
    """The one folder of a role: that of the very name, where there are several."""
    exact = [folder for folder in found if folder.name == role]
    if len(found) > 1 and not exact:
        names = ", ".join(folder.name for folder in found)
        raise InputError(f"--data folder:{root} holds several folders of {role} images ({names}); leave one of them")
    return (exact or found)[0]


def _describe(train: Path, test: Path, validation: Path | None) -> Iterator[str]:
    if (train.name, test.name) != ("train", "test"):
        yield f"{train.name}/ holds the training images, {test.name}/ the test images"
    if validation and validation != test:
        yield f"{validation.name}/ is not used; training holds out images of {train.name}/ where it has to"


def _walk(
    folder: Path, suffixes: frozenset[str], skipped: Counter[str], stamps: dict[str, tuple[int, ...]], above: int
) -> Iterator[Path]:
    """The images below a folder, each real folder once: a link may lead back to where it lies.

    Args:
        stamps: takes those of all folders, by their paths from the character `above` on.
    """
    root = folder.parent.resolve()
    seen = {*map(str, folder.resolve().parents), str(root), *map(str, root.parents)}

    def fail(error: OSError) -> None:
        skipped[SHUT] += 1

    for place, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        stamps[place[above:]] = listing.stamp(Path(place))
        real = os.path.realpath(place)
        hidden = [name for name in folders if _is_hidden(name)]
        folders[:] = sorted(set(folders) - set(hidden))
        if hidden:
            skipped["hidden or system folders"] += len(hidden)
        if real in seen:
            skipped["links to a folder that is read already"] += 1
            folders.clear()
            continue
        seen.add(real)
        for name in names:
            path = Path(place, name)
            if reason := _find_fault(path, suffixes):
                skipped[reason] += 1
            else:
                yield path


def _find_fault(path: Path, suffixes: frozenset[str]) -> str | None:
    """Why a file is left out; None for an image."""
    suffix = _tell_suffix(path.name)
    if _is_hidden(path.name):
        return "hidden or system files"
    if suffix and suffix not in suffixes:
        return f"{suffix} files"
    if not path.is_file():
        return DANGLING if path.is_symlink() else "devices and pipes"
    return None if suffix or is_image(path) else NO_IMAGE


def _tell_suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower().removesuffix(".")


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM
