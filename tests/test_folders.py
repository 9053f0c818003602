"""Which folders are splits and classes, and which files are images."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from baselines import folders, photos
from baselines.errors import InputError
from baselines.images import DEEP, TURNED
from baselines.sources import load
from compress.training.data import load_data


def paint(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), level, np.uint8)).save(path, None if path.suffix else "png")
    return path


def fill(root: Path, count: int = 2, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    for label, name in enumerate(classes):
        for index in range(count):
            paint(root / name / f"{index}.png", 100 * label + index)


def splits(root: Path) -> tuple[str, str] | None:
    found = folders.find_splits(root)
    return (found.train.name, found.test.name) if found else None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("train test", ("train", "test")),
        ("Training Testing", ("Training", "Testing")),
        ("TRAIN TEST", ("TRAIN", "TEST")),
        ("train val", ("train", "val")),
        ("train valid test", ("train", "test")),
        ("training validation", ("training", "validation")),
        ("train_set test_set", ("train_set", "test_set")),
        ("TrainSet testset", ("TrainSet", "testset")),
        ("images_train images_val", ("images_train", "images_val")),
        ("train2017 val2017", ("train2017", "val2017")),
        ("train Train test", ("train", "test")),
        ("train test notes", ("train", "test")),
        ("trains tests", None),
        ("train_left test_left", ("train_left", "test_left")),  # the same folders are in both
        ("seg_train seg_val", ("seg_train", "seg_val")),
        ("train_left train_right", None),
        ("train_left test_left more", None),
    ],
)
def test_splits_are_known_by_their_names(names: str, expected: tuple[str, str] | None, tmp_path: Path) -> None:
    for number, name in enumerate(names.split()):
        fill(tmp_path / name, 2 + number)
    assert splits(tmp_path) == expected
    if expected and len(names.split()) == 2:
        data = load(f"folder:{tmp_path}", (4, 6), 3)
        assert (len(data.train.labels), len(data.test.labels), data.classes) == (4, 6, ("cat", "dog"))
        said = f"{expected[0]}/ holds the training images, {expected[1]}/ the test images"
        assert data.notes == (() if names == "train test" else (said,))


def test_a_split_may_lie_in_a_folder_of_its_own_name_as_archives_unpack(tmp_path: Path) -> None:
    for name in ("seg_train", "seg_test"):
        fill(tmp_path / "photos" / name / name)
    found = folders.find_splits(tmp_path / "photos")
    assert found
    assert (found.train, found.test) == tuple(tmp_path / "photos" / name / name for name in ("seg_train", "seg_test"))
    with pytest.raises(InputError, match=r"holds 1 class folders; .*; give .*photos, if it holds them"):
        load(f"folder:{tmp_path}", (4, 6), 3)


@pytest.mark.parametrize("classes", [("bus", "car", "train"), ("Testing", "Training"), ("invalid", "valid")])
def test_classes_may_be_called_like_splits(classes: tuple[str, ...], tmp_path: Path) -> None:
    fill(tmp_path, 2, classes)
    assert load(f"folder:{tmp_path}", (4, 6), 3).classes == classes


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("train", "only one of train/ and test/ (or val/), train/; give both"),
        ("Training", "only one of"),
        ("val test", "only one of train/ and test/ (or val/), test/ and val/; give both"),
        ("valid Testing", "only one of"),
        ("train1 train2 test", "several folders of train images (train1, train2)"),
    ],
)
def test_splits_without_a_partner_are_refused(names: str, words: str, tmp_path: Path) -> None:
    for name in names.split():
        fill(tmp_path / name)
    with pytest.raises(InputError, match="folder:") as error:
        load(f"folder:{tmp_path}", (4, 6), 3)
    assert words in str(error.value)


def test_links_are_followed_as_torchvision_does_and_end_in_no_circle(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "pets", tmp_path / "elsewhere"
    fill(root)
    for index in range(9):
        paint(elsewhere / "more" / f"{index}.png", 50)
    (root / "dog" / "linked").symlink_to(elsewhere)
    (root / "bird").symlink_to(elsewhere)
    reference = torchvision.datasets.ImageFolder(str(root))
    data = load(f"folder:{root}", (4, 6), 3)
    assert list(data.classes) == reference.classes
    counted = Counter(data.train.labels.tolist()) + Counter(data.test.labels.tolist())
    assert counted == Counter(label for _, label in reference.samples)
    for name, target in (("itself", "."), ("above", ".."), ("again", "linked/more")):
        (root / "dog" / name).symlink_to(target)
    (root / "dog" / "gone.png").symlink_to("nowhere.png")
    skipped: Counter[str] = Counter()
    found = folders.scan(root, skipped)
    assert Counter(found.labels.tolist()) == counted
    assert skipped == {"links to a folder that is read already": 3, "links to nothing": 1}


def test_rubbish_is_left_out_and_counted(tmp_path: Path) -> None:
    fill(tmp_path, 5)
    expected = load(f"folder:{tmp_path}", (4, 6), 3)
    (tmp_path / "cat" / "._0.png").write_bytes(bytes.fromhex("00051607") + bytes(78))
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "labels.csv", "old.CSV", "notes.txt", "README", "paper.eps"):
        (tmp_path / "dog" / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    shutil.copytree(tmp_path / "cat", tmp_path / "dog" / ".ipynb_checkpoints")
    for name in (".ipynb_checkpoints", "__MACOSX", ".git"):
        shutil.copytree(tmp_path / "cat", tmp_path / name)
    paint(tmp_path / "cover.jpg")
    data = load(f"folder:{tmp_path}", (4, 6), 3)
    assert data.fingerprint == expected.fingerprint
    assert data.classes == ("cat", "dog")
    reasons = [
        "hidden or system files (4)",
        "hidden or system folders (4)",
        ".csv files (2)",
        ".eps files (1)",
        ".txt files (1)",
        "files without suffix that are no images (1)",
        "others (1)",
    ]
    assert data.notes == (f"left out: {', '.join(reasons)}",)


def test_whatever_pillow_reads_is_an_image(tmp_path: Path) -> None:
    names = ["a.JPG", "b.jfif", "c.jpe", "d.gif", "e.TIF", "f.webp", "g.jp2", "h", "i.pbm"]
    for name in names:
        paint(tmp_path / "cat" / f"x{name[1:]}").rename(tmp_path / "cat" / name)
        paint(tmp_path / "dog" / f"x{name[1:]}").rename(tmp_path / "dog" / name)
    skipped: Counter[str] = Counter()
    assert [path.name for path in folders.scan(tmp_path, skipped).paths] == names * 2
    assert not skipped


def test_all_images_that_cannot_be_used_are_named_at_once(tmp_path: Path) -> None:
    fill(tmp_path / "train", 10)
    fill(tmp_path / "test", 4)
    whole = (tmp_path / "train" / "cat" / "0.png").read_bytes()
    faulty = {f"train/cat/{index}.png": whole[:44] for index in range(7)}
    faulty |= {"train/dog/1.png": b"", "test/cat/2.png": b"<html>", "test/dog/3.png": whole[:40]}
    for name, content in faulty.items():
        (tmp_path / name).write_bytes(content)
    Image.fromarray(np.full((4, 4), 300, np.int32)).save(tmp_path / "test" / "dog" / "z.tif")
    with pytest.raises(InputError) as error:
        load(f"folder:{tmp_path}", (4, 4), 3)
    said = str(error.value)
    assert said.startswith("11 images cannot be used: ")
    assert all(str(tmp_path / name) in said for name in faulty)
    assert said.endswith("; and 1 more; repair or remove them, or leave them out with --skip-unreadable")
    assert "\n" not in said
    for name in ("cat/0", "cat/1", "dog/0", "dog/1"):
        path = tmp_path / "deep" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 300, np.int32)).save(path)
    with pytest.raises(InputError, match=r"^4 images .*; save them with 8 or 16 bits a channel.*, or leave them out"):
        load(f"folder:{tmp_path / 'deep'}", (4, 4), 3)


def test_what_was_done_to_images_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 5)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("cat", "dog"):
        Image.new("RGB", (6, 4)).save(tmp_path / name / "turned.jpg", exif=exif)
    Image.fromarray(np.full((4, 4), 65535, np.uint16)).save(tmp_path / "cat" / "deep.png")
    said: list[str] = []
    first = load_data(f"folder:{tmp_path}", (4, 4), 3, tmp_path, say=said.append)
    assert said == [
        f"folder:{tmp_path}: 2 of 13 images: {TURNED}",
        f"folder:{tmp_path}: 1 of 13 images: {DEEP}",
        f"folder:{tmp_path}: 12 of 13 images: stretched to 4 x 4 (bilinear)",
    ]
    monkeypatch.setattr(photos, "MEMORY_LIMIT", 0)
    assert load(f"folder:{tmp_path}", (4, 4), 3).notes == first.notes


def test_the_path_of_a_folder_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "pets")
    expected = load(f"folder:{tmp_path / 'pets'}", (4, 4), 3)
    bare = load(str(tmp_path / "pets"), (4, 4), 3)
    assert (bare.name, bare.fingerprint) == (expected.name, expected.fingerprint)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("~/pets", "folder:~/pets"):
        assert load(name, (4, 4), 3).fingerprint == expected.fingerprint
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert len(load("digits", (8, 8), 1).train.labels) == 1437


def test_images_that_cannot_be_read_are_left_out_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "train", 5)
    fill(tmp_path / "test", 3)
    expected = load(str(tmp_path), (4, 6), 3)
    for split in ("train", "test"):
        (tmp_path / split / "cat" / "9.png").write_bytes(b"<html>")
        (tmp_path / split / "dog" / "00.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"4 images cannot be used.*or leave them out with --skip-unreadable"):
        load(str(tmp_path), (4, 6), 3)
    data = load(str(tmp_path), (4, 6), 3, skip_unreadable=True)
    assert data.fingerprint == expected.fingerprint
    assert data.notes[-1].startswith("left out: 4 images cannot be used: ")
    monkeypatch.setattr(photos, "MEMORY_LIMIT", 0)
    large = load(str(tmp_path), (4, 6), 3, skip_unreadable=True)
    (images,) = large.test.fetch([torch.arange(6)], torch.device("cpu"))
    assert torch.equal(images, expected.test.images)  # type: ignore[attr-defined]
    for path in (tmp_path / "test" / "dog").glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="of dog none is left"):
        load(str(tmp_path), (4, 6), 3, skip_unreadable=True)
