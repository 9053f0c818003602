"""`--data hf:NAME` and folders of `save_to_disk`: the same images as in class folders, from this machine alone."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from baselines.data import Data
from baselines.errors import InputError
from baselines.resizing import Resizing
from baselines.sources import load
from baselines.tables import is_saved

CLASSES = ("blue", "red")
CROP = Resizing(fit="shortest", interpolation="bicubic")


def make_folders(root: Path) -> Path:
    """Images of another shape than a model takes, four of each class and split."""
    chance = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for index in range(4):
                pixels = chance.integers(0, 256, (12, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return make_folders(tmp_path / "folders")


@pytest.fixture
def tables(folders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The same as a `DatasetDict`, stored as files are."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    kinds = datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    splits = {}
    for split in ("train", "test"):
        paths = sorted((folders / split).glob("*/*.png"))
        rows = {"picture": list(map(str, paths)), "label": [CLASSES.index(path.parent.name) for path in paths]}
        splits[split] = datasets.Dataset.from_dict(rows, features=kinds)
    return datasets.DatasetDict(splits)


def assert_same(found: Data, wanted: Data) -> None:
    assert found.classes == wanted.classes
    assert (found.mean, found.std) == (wanted.mean, wanted.std)
    for ours, theirs in ((found.train, wanted.train), (found.test, wanted.test)):
        assert torch.equal(ours.labels, theirs.labels)
        indices = [torch.arange(len(ours.labels))]
        (ours_,), (theirs_,) = (each.fetch(indices, torch.device("cpu")) for each in (ours, theirs))
        assert torch.equal(ours_, theirs_)


def test_a_saved_set_holds_the_images_of_its_folders(
    tables: Any, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.save_to_disk(tmp_path / "saved")
    assert is_saved(tmp_path / "saved")
    wanted = load(str(folders), (8, 8), 3, resizing=CROP)
    assert_same(load(str(tmp_path / "saved"), (8, 8), 3, resizing=CROP), wanted)
    monkeypatch.setattr("baselines.photos.MEMORY_LIMIT", 0)  # as larger ones are: decoded when they are asked for
    monkeypatch.setattr("baselines.sources.STATISTICS_LIMIT", 2**12)
    late = load(f"folder:{tmp_path / 'saved'}", (8, 8), 3, resizing=CROP)
    assert torch.equal(next(late.test.fetch([torch.arange(8)], torch.device("cpu"))), wanted.test.images)  # type: ignore[attr-defined]
    assert late.fingerprint == load(f"folder:{tmp_path / 'saved'}", (8, 8), 3, resizing=CROP).fingerprint


def test_a_test_split_without_labels_is_not_used(tables: Any, tmp_path: Path) -> None:
    import datasets

    hidden = tables["test"].map(lambda _: {"label": -1})
    whole = datasets.DatasetDict({"train": tables["train"], "validation": tables["test"], "test": hidden})
    whole.save_to_disk(tmp_path / "hidden")
    data = load(str(tmp_path / "hidden"), (8, 8), 3)
    assert data.test.labels.tolist() == [0] * 4 + [1] * 4
    assert data.notes[0] == "test has no labels and is not used"
    tables["train"].save_to_disk(tmp_path / "one")
    data = load(str(tmp_path / "one"), (8, 8), 3)
    assert (len(data.train.labels), len(data.test.labels)) == (6, 2)  # one image of each class


def test_a_set_of_the_cache_is_read_and_none_is_fetched(
    tables: Any, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets.arrow_writer import ArrowWriter

    place = tmp_path / "cache" / "somebody___shapes" / "default" / "0.0.0" / "0123456789abcdef"
    place.mkdir(parents=True)
    info = tables["train"].info.copy()
    info.builder_name, info.dataset_name, info.config_name, info.version = "parquet", "shapes", "default", "0.0.0"
    info.splits = {}
    for split, table in tables.items():
        writer = ArrowWriter(features=table.features, path=str(place / f"shapes-{split}.arrow"))
        for row in table:
            writer.write(row)
        count, size = writer.finalize()
        info.splits[split] = {"name": split, "num_bytes": size, "num_examples": count, "dataset_name": "shapes"}
    import datasets

    info.splits = datasets.SplitDict.from_split_dict(list(info.splits.values()))
    info.write_to_directory(str(place))
    wanted = load(str(folders), (8, 8), 3)
    assert_same(load("hf:somebody/shapes", (8, 8), 3), wanted)
    with pytest.raises(InputError, match=r"hf:somebody/else: is not on this machine .*load_dataset\('somebody/else'\)"):
        load("hf:somebody/else", (8, 8), 3)


def test_without_the_package_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "dataset_dict.json").write_text("{}")
    for name in ("hf:beans", str(tmp_path)):
        with pytest.raises(InputError, match="needs the package datasets; install it with: pip install datasets"):
            load(name, (8, 8), 3)


def test_what_only_looks_like_a_saved_set_is_class_folders(folders: Path) -> None:
    (folders / "state.json").write_text("{}")
    assert load(str(folders), (8, 8), 3).classes == CLASSES
