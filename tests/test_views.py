"""Large sets: views cut out of the original images, whoever decodes them, and lists of files that are kept."""

import hashlib
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.transforms as theirs
from PIL import Image
from torchvision.transforms import functional

from baselines import feed, folders, listing, photos
from baselines.augment import Dice
from baselines.data import Data
from baselines.decoding import FileSplit, describe
from baselines.distributed import World
from baselines.feed import Feed
from baselines.recipe import TrainConfig
from baselines.resizing import Resizing
from baselines.sources import load
from baselines.subset import Subset, cut
from baselines.views import draw_views

CPU = torch.device("cpu")
CONFIG = TrainConfig(batch_size=4, crop_padding=0, crop_scale=0.1)


def draw(count: int, seed: int = 0, config: TrainConfig = CONFIG) -> Any:
    return draw_views(config, Dice(torch.Generator().manual_seed(seed), count, slice(None)))


@pytest.fixture
def photos_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """18 photos of different sizes, much larger than a model's; as a set of many would be read."""
    chance = np.random.default_rng(0)
    for number in range(18):
        path = tmp_path / "photos" / ("cat" if number % 2 else "dog") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (60 + 2 * number, 90 - number, 3)
        Image.fromarray(chance.integers(0, 256, shape, dtype=np.uint8)).save(path)
    monkeypatch.setattr(photos, "MEMORY_LIMIT", 0)
    return tmp_path / "photos"


class Numbers:
    """In place of torch where torchvision draws a crop: the numbers that ours was drawn from."""

    exp, log, tensor = torch.exp, torch.log, torch.tensor

    def __init__(self, tries: torch.Tensor):
        self.tries, self.row = iter(tries.tolist()), []

    def empty(self, _: int) -> Any:
        return SimpleNamespace(uniform_=self.uniform)

    def uniform(self, low: float, high: float) -> torch.Tensor:
        if len(self.row) != 3:  # a try takes area and ratio, and a place if it fits
            self.row = next(self.tries)
        return torch.as_tensor(low + (high - low) * self.row.pop(0))

    def randint(self, low: int, high: int, size: Any) -> torch.Tensor:
        return torch.tensor(int(self.row.pop(0) * high))


@pytest.mark.parametrize(("size", "least"), [((375, 500), 200), ((31, 900), 1), ((900, 31), 1), ((3, 2), 3)])
def test_boxes_are_those_of_torchvision(size: tuple[int, int], least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    views, boxes = draw(300), []
    tries = torch.rand(300, 10, 4, generator=torch.Generator().manual_seed(0))
    for index in range(300):
        monkeypatch.setattr(theirs, "torch", Numbers(tries[index]))
        image: Any = Image.new("L", size[::-1])
        boxes.append(theirs.RandomResizedCrop.get_params(image, [0.1, 1.0], [3 / 4, 4 / 3]))
        assert views.take(index, "bilinear").find_box(*size) == boxes[-1]
    assert len({*boxes}) >= least


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_cut_from_the_original(interpolation: Any, photos_on_disk: Path) -> None:
    """As torchvision's `resized_crop` of the file, and with detail that is gone at the size of the model."""
    how = Resizing(interpolation=interpolation)
    data = load(str(photos_on_disk), (16, 16), 3, resizing=how)
    split, views = data.train, draw(len(data.train.labels))
    assert isinstance(split, FileSplit)
    (found,) = split.fetch([torch.arange(len(split))], CPU, [views])
    (shrunk,) = split.fetch([torch.arange(len(split))], CPU)
    for index, path in enumerate(split.paths):
        with Image.open(path) as image:
            box = views.take(index, interpolation).find_box(image.height, image.width)
            mode = functional.InterpolationMode(interpolation)
            expected = functional.resized_crop(image, *box, [16, 16], mode)  # type: ignore[arg-type]
        expected = functional.hflip(expected) if views.mirrored[index] else expected
        assert np.array_equal(np.asarray(expected), found[index].permute(1, 2, 0).numpy())
    assert found.float().std() > 1.5 * shrunk.float().std()  # noise, which shrinking averages
    assert 0 < views.mirrored.sum() < len(split)
    assert not draw(50, config=CONFIG.model_copy(update={"flip": False})).mirrored.any()


def collect(
    data: Data, rank: int = 0, size: int = 1, start: int = 0, config: TrainConfig = CONFIG
) -> list[torch.Tensor]:
    used = torch.arange(len(data.train.labels))
    return [batch.images for batch in Feed(data, used, config, CPU, 5, World(rank, size)).epoch(1, start)]


def test_views_depend_on_seed_and_step_alone(photos_on_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(str(photos_on_disk), (16, 16), 3)
    whole = collect(data)
    for workers in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda: workers)  # noqa: B023
        assert all(map(torch.equal, whole, collect(data)))
    assert all(map(torch.equal, whole[1:], collect(data, start=1)))
    halves = [collect(data, rank, 2) for rank in (0, 1)]
    assert all(map(torch.equal, whole, map(torch.cat, zip(*halves, strict=True))))
    states: list[torch.Tensor] = []
    monkeypatch.setattr(feed, "augment", lambda images, _, dice: (states.append(dice.generator.get_state()), images)[1])
    collect(data, start=2)
    generator = torch.Generator().manual_seed(feed.seed_of(5, 3 + 2))
    draw_views(CONFIG, Dice(generator, 4, slice(None)))
    assert torch.equal(states[0], generator.get_state())  # numbers of the views do not come again


def test_a_subset_and_other_augmentations_go_along(photos_on_disk: Path) -> None:
    data = load(str(photos_on_disk), (16, 16), 3)
    config = CONFIG.model_copy(update={"randaugment": 2, "crop_padding": 2, "mixup": 0.3, "erasing": 0.5})
    images = torch.cat(collect(cut(data, Subset(train=6)), config=config))
    assert images.shape == (12, 3, 16, 16)
    assert images.isfinite().all()


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_normalizing_keeps_every_bit(form: torch.memory_format) -> None:
    levels = torch.arange(256, dtype=torch.uint8).repeat(6).view(2, 3, 16, 16).contiguous(memory_format=form)
    split: Any = None
    mean, std = (0.1, 0.45, 0.7), (0.2, 0.31, 0.29)
    found = Data("levels", (), split, split, mean, std).normalize(levels)
    expected = levels.float().div(255).sub(torch.tensor(mean)[:, None, None]).div(torch.tensor(std)[:, None, None])
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=form)


def test_fingerprints_are_those_of_before(photos_on_disk: Path) -> None:
    split = load(str(photos_on_disk), (16, 16), 3).train
    assert isinstance(split, FileSplit)
    for how, remarks in ((Resizing(), ()), (Resizing(fit="shortest"), ("turned",))):
        told = () if how == Resizing() else (how.model_dump_json(),)
        known = ([describe(path) for path in split.paths], split.labels.tolist(), (16, 16), *told, *remarks)
        digest = hashlib.sha256(repr(known).encode()).hexdigest()
        assert replace(split, resizing=how, remarks=remarks).fingerprint == digest


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The folders that are walked; lists of every length are kept."""
    found: list[str] = []
    walk = folders._walk
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "LARGE", 1)
    monkeypatch.setattr(listing, "SETTLED_NS", -(10**18))  # as if nothing had changed for long
    monkeypatch.setattr(folders, "_walk", lambda folder, *rest: (found.append(folder.name), walk(folder, *rest))[1])
    return found


def scan(root: Path) -> tuple[tuple[str, ...], list[Path], list[int], Counter[str]]:
    skipped: Counter[str] = Counter()
    files = folders.scan(root, skipped)
    return files.classes, [*files.paths], files.labels.tolist(), skipped  # type: ignore[list-item]


def test_a_folder_is_listed_again_when_it_changed(photos_on_disk: Path, walked: list[str]) -> None:
    (photos_on_disk / "cat" / "notes.txt").write_text("left out")
    (photos_on_disk / "cat" / "old" / "z\udce4.png").parent.mkdir()
    os.link(photos_on_disk / "dog" / "00.png", os.fsencode(photos_on_disk / "cat" / "old" / "z\udce4.png"))
    first = scan(photos_on_disk)
    assert scan(photos_on_disk) == first
    assert walked == ["cat", "dog"]
    assert first[3] == {".txt files": 1}
    assert os.fsencode(first[1][9].name) == b"z\xe4.png"
    before = (photos_on_disk / "cat" / "old").stat()
    (photos_on_disk / "cat" / "old" / "more.txt").touch()
    os.utime(photos_on_disk / "cat" / "old", ns=(before.st_atime_ns, before.st_mtime_ns))  # as tar and rsync do
    assert scan(photos_on_disk)[3] == {".txt files": 2}
    (photos_on_disk / "dog" / "00.png").rename(photos_on_disk / "cat" / "00.png")
    assert scan(photos_on_disk)[2].count(1) == 8
    (photos_on_disk / "ant").mkdir()
    os.link(photos_on_disk / "cat" / "00.png", photos_on_disk / "ant" / "00.png")
    assert scan(photos_on_disk)[0] == ("ant", "cat", "dog")
    assert len(walked) == 2 + 2 + 2 + 3


def test_a_list_that_may_be_wrong_is_not_kept(
    photos_on_disk: Path, walked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(listing, "SETTLED_NS", 10**10)  # as if folders had changed a moment ago
        scan(photos_on_disk)
    (photos_on_disk / "cat" / "link.png").symlink_to(tmp_path / "later.png")
    scan(photos_on_disk)
    assert not (tmp_path / "cache").exists()
    (photos_on_disk / "cat" / "link.png").unlink()
    first = scan(photos_on_disk)
    (kept,) = (tmp_path / "cache" / "compress" / "listings").iterdir()
    kept.write_bytes(kept.read_bytes()[:-40])  # damaged
    assert scan(photos_on_disk) == first
    assert len(walked) == 8
    kept.unlink()
    kept.mkdir()
    assert scan(photos_on_disk) == scan(photos_on_disk) == first  # nothing can be written there
    assert [*kept.parent.iterdir()] == [kept]


def test_long_lists_are_small_and_act_as_lists(tmp_path: Path) -> None:
    names = [f"class{number // 1000:03}/n{number:08}.JPEG" for number in range(100_000)]
    paths = listing.Paths.pack(tmp_path, names)
    assert paths.names.nbytes + paths.ends.nbytes < 35 * len(names)
    assert (len(paths), paths[0], paths[-1]) == (100_000, tmp_path / names[0], tmp_path / names[-1])
    assert [*paths[10:0:-4]] == [tmp_path / names[index] for index in (10, 6, 2)]
    some = listing.Chosen(paths, np.array([5, 3, 99_999]))
    assert [*some] == [tmp_path / names[index] for index in (5, 3, 99_999)]
    assert [*some[1:]] == [*some][1:]
    with pytest.raises(IndexError):
        paths[100_000]
