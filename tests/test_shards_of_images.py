"""`--data webdataset:...` and `hf:FOLDER` of parquet files: the images that those libraries read, in our order."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from baselines import listing, photos, shards
from baselines.distributed import World
from baselines.errors import InputError
from baselines.feed import Feed
from baselines.recipe import TrainConfig
from baselines.sources import load

CPU = torch.device("cpu")
SIZE = (12, 10)


def paint(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8))


def encode(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, **{"format": "PNG", **options})
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shards as the library writes them: 2 x 6 images to train with, 4 to test with, of three classes."""
    webdataset = pytest.importorskip("webdataset")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "shards"
    place.mkdir()
    for name, numbers in {"train-000": range(6), "train-001": range(6, 12), "val-000": range(12, 16)}.items():
        with webdataset.TarWriter(str(place / f"{name}.tar")) as writer:
            for number in numbers:
                writer.write({"__key__": f"some/image{number:04}", "png": encode(paint(number)), "cls": number % 3})
    return place


def fetch(split: Any) -> torch.Tensor:
    return torch.cat([*split.fetch([torch.arange(len(split.labels))], CPU)])


def test_images_and_classes_are_those_that_webdataset_reads(folder: Path) -> None:
    import webdataset

    (folder / "classes.txt").write_text("cat\ndog\nbird\n")
    for given in (str(folder), f"{folder}/{{train-{{000..001}},val-000}}.tar", f"{folder}/*.tar"):
        data = load(f"webdataset:{given}", SIZE, 3)
        assert data.classes == ("cat", "dog", "bird")
        for split, pattern in ((data.train, "train-{000..001}"), (data.test, "val-000")):
            theirs = [*webdataset.WebDataset(f"{folder}/{pattern}.tar", shardshuffle=False).decode("pil")]
            assert split.labels.tolist() == [each["cls"] for each in theirs]
            pixels = np.stack([np.asarray(each["png"]) for each in theirs])
            assert np.array_equal(fetch(split).permute(0, 2, 3, 1).numpy(), pixels)


def test_order_sharing_and_resuming_are_those_of_files(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    for number in range(16):
        path = tmp_path / "files" / ("train" if number < 12 else "val") / str(number % 3) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        paint(number).save(path)
    monkeypatch.setattr(photos, "MEMORY_LIMIT", 0)
    config = TrainConfig(batch_size=4, crop_padding=0, crop_scale=0.5)
    there = load(f"webdataset:{folder}", (8, 8), 3)
    here = load(str(tmp_path / "files"), (8, 8), 3)
    places = torch.tensor([number % 3 * 4 + number // 3 for number in range(12)])  # of the images among sorted files
    whole = [*Feed(there, torch.arange(12), config, CPU, 3, World()).epoch(1)]
    resumed = [*Feed(there, torch.arange(12), config, CPU, 3, World()).epoch(1, 2)]
    assert torch.equal(whole[2].images, resumed[0].images)
    files = [*Feed(here, places, config, CPU, 3, World()).epoch(1)]
    halves = [[*Feed(there, torch.arange(12), config, CPU, 3, World(rank, 2)).epoch(1)] for rank in (0, 1)]
    for step, batch in enumerate(whole):
        pixels, others = (here.normalize(torch.zeros(1, 3, 1, 1)), there.normalize(torch.zeros(1, 3, 1, 1)))
        torch.testing.assert_close(batch.images - others, files[step].images - pixels, atol=1e-4, rtol=1e-4)
        assert torch.equal(batch.images, torch.cat([half[step].images for half in halves]))


def write(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.TarFile(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_images_are_read_as_files_are_and_what_is_odd_is_counted(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("webdataset")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = Image.fromarray(np.full((10, 12), 256 * 77, np.uint16))
    write(
        tmp_path / "all.tar",
        ("0.png", b"no image"),
        ("0.cls", b"1"),
        ("a.jpg", encode(paint(0).resize((12, 10)), format="JPEG", exif=turned, quality=95)),
        ("a.cls", b"0"),
        ("b.png", encode(deep)),
        ("b.cls", b"1"),
        ("c.cls", b"1"),
        ("d.png", encode(paint(1))),
        ("e.png", encode(paint(2))),
        ("e.cls", b"0\n"),
        ("e.depth.png", encode(paint(3))),
        ("f.png", encode(paint(4))),
        ("f.cls", b"1"),
    )
    with pytest.raises(InputError, match=r"0\.png in .*all\.tar is not a readable image .*--skip-unreadable"):
        load(f"webdataset:{tmp_path}/all.tar", SIZE, 3)
    data = load(f"webdataset:{tmp_path}/all.tar", SIZE, 3, skip_unreadable=True)
    said = "; ".join(data.notes)
    for words in (
        "samples without an image (1)",
        "samples without .cls (1)",
        "further images of one sample (1)",
        "upright",
    ):
        assert words in said
    assert "of more than 8 bits" in said
    assert "0.png in" in said
    assert sorted(data.train.labels.tolist() + data.test.labels.tolist()) == [0, 0, 1, 1]
    levels = {int(image.float().mean()) for image in (*fetch(data.train), *fetch(data.test))}
    assert 77 in levels


@pytest.mark.parametrize(
    ("name", "members", "words"),
    [
        ("a.tar", [("a.png", b"x"), ("a.cls", b"dog")], "a.cls holds b'dog'; it has to hold the number of a class"),
        ("a.tar", [("a.png", b"x"), ("a.json", b"{}")], r"samples without \.cls \(1\)"),
        ("val-0.tar", [("a.png", b"x"), ("a.cls", b"1")], "none is called train"),
        ("a.tar", [("a.png", b"x"), ("a.cls", b"0"), ("b.png", b"y"), ("b.cls", b"0")], r"a\.png in .*a\.tar"),
    ],
)
def test_a_fault_names_the_member(name: str, members: Any, words: str, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    write(tmp_path / name, *members)
    with pytest.raises(InputError, match=words):
        load(f"webdataset:{tmp_path}", SIZE, 3)


def test_what_has_no_places_is_refused(folder: Path, tmp_path: Path) -> None:
    for given in ("https://somewhere/train-{000..146}.tar", "pipe:cat x.tar", "s3://bucket/x.tar"):
        with pytest.raises(InputError, match="download them, and give their folder"):
            load(f"webdataset:{given}", SIZE, 3)
    for given in ("", f"{folder}/train-{{000..002}}.tar", str(tmp_path / "nothing")):
        with pytest.raises(
            InputError, match=r"give the folder of the shards, or a pattern such as train-\{000..146\}.tar"
        ):
            load(f"webdataset:{given}", SIZE, 3)
    shard = folder / "train-000.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"train-000\.tar is not a whole, uncompressed tar file"):
        load(f"webdataset:{folder}", SIZE, 3)


def test_shards_are_indexed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "LARGE", 1)
    monkeypatch.setattr(listing, "SETTLED_NS", -(10**18))  # as if the shards were written long ago
    opened: list[str] = []
    find, keep = tarfile.open, opened.append
    monkeypatch.setattr(shards.tarfile, "open", lambda path, mode: (keep(Path(path).name), find(path, mode))[1])
    first, second = (load(f"webdataset:{folder}", SIZE, 3) for _ in range(2))
    assert opened == ["train-000.tar", "train-001.tar", "val-000.tar"]
    assert torch.equal(fetch(first.train), fetch(second.train))
    assert first.fingerprint == second.fingerprint
    assert first.notes == second.notes
    write(folder / "val-000.tar", ("a.png", encode(paint(20))), ("a.cls", b"2"))
    assert len(load(f"webdataset:{folder}", SIZE, 3).test.labels) == 1
    assert opened[3:] == ["val-000.tar"]


def test_parquet_files_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    stored = [{"bytes": encode(paint(number)), "path": None} for number in range(8)]
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    labels = [number % 2 for number in range(8)]
    for place, features in (("known", kinds), ("plain", None)):
        (tmp_path / place / "data").mkdir(parents=True)
        for split, rows in (("train-00000-of-00001", slice(6)), ("test-00000-of-00001", slice(6, 8))):
            table = datasets.Dataset.from_dict({"image": stored[rows], "label": labels[rows]}, features=features)
            table.to_parquet(tmp_path / place / "data" / f"{split}.parquet")
        data = load(f"hf:{tmp_path / place}", SIZE, 3)
        assert data.classes == (("cat", "dog") if features else ("0", "1"))
        assert (data.train.labels.tolist(), data.test.labels.tolist()) == (labels[:6], labels[6:])
        pixels = np.stack([np.asarray(paint(number)) for number in range(8)])
        assert np.array_equal(torch.cat([fetch(data.train), fetch(data.test)]).permute(0, 2, 3, 1).numpy(), pixels)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="give a folder of parquet files"):
        load(f"hf:{tmp_path / 'empty'}", SIZE, 3)
