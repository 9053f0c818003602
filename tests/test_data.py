"""Data sets on disk and in memory."""

import os
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from baselines import decoding, photos
from baselines.data import Data, TensorSplit
from baselines.decoding import FileSplit
from baselines.distributed import World
from baselines.errors import InputError
from baselines.feed import Feed
from baselines.recipe import TrainConfig
from baselines.sources import load
from baselines.validation import count_right
from compress.evaluate import take_test_images
from compress.measure.environment import configure_allocator

CPU = torch.device("cpu")


def paint(path: Path, value: int, size: tuple[int, int] = (10, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def test_digits_are_those_of_scikit_learn() -> None:
    raw = load_digits()
    rows = train_test_split(range(len(raw.target)), test_size=0.2, stratify=raw.target, random_state=0)
    digits = load("digits", (8, 8), 1)
    for split, chosen in zip((digits.train, digits.test), rows, strict=True):
        assert split.labels.tolist() == raw.target[chosen].tolist()
        images = torch.cat([batch for batch, _ in digits.batches(split, 500, CPU)])[:, 0] * digits.std[0]
        expected = torch.tensor(raw.images[chosen]).mul(255 / 16).round() / 255
        torch.testing.assert_close(images + digits.mean[0], expected.float(), rtol=0, atol=1e-6)


def test_digits_are_all_there_and_the_split_is_fixed() -> None:
    digits = load("digits", (8, 8), 1)
    assert (len(digits.train.labels), len(digits.test.labels)) == (1437, 360)
    assert torch.bincount(digits.test.labels).min() >= 33
    assert load("digits", (8, 8), 1).fingerprint == digits.fingerprint
    assert load("digits", (16, 16), 1).fingerprint != digits.fingerprint
    images = torch.cat([batch for batch, _ in digits.batches(digits.train, 500, CPU)])
    assert images.shape == (1437, 1, 8, 8)
    assert images.mean().item() == pytest.approx(0, abs=1e-4)
    assert images.std().item() == pytest.approx(1, abs=1e-3)


def test_a_folder_is_split_once_and_for_all(tmp_path: Path) -> None:
    for name, value in (("cat", 10), ("dog", 200)):
        for index in range(10):
            paint(tmp_path / name / f"{index}.png", value)
    first, second = (load(f"folder:{tmp_path}", (4, 4), 3) for _ in range(2))
    assert first.classes == ("cat", "dog")
    assert (len(first.train.labels), len(first.test.labels)) == (16, 4)
    assert torch.bincount(first.test.labels).tolist() == [2, 2]
    assert first.fingerprint == second.fingerprint


def test_train_and_test_folders_and_both_ways_of_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(("a", "b")):
            for index in range(count):
                paint(tmp_path / part / name / f"{index}.jpg", 100 * label + 10 * index + 5)
    in_memory = load(f"folder:{tmp_path}", (4, 4), 3)
    monkeypatch.setattr(photos, "MEMORY_LIMIT", 0)
    streamed = load(f"folder:{tmp_path}", (4, 4), 3)
    assert isinstance(in_memory.train, TensorSplit)
    assert isinstance(streamed.train, FileSplit)
    assert in_memory.mean == pytest.approx(streamed.mean)
    chunks = [torch.tensor([3, 1]), torch.tensor([6])]
    for kept, read in zip(in_memory.train.fetch(chunks, CPU), streamed.train.fetch(chunks, CPU), strict=True):
        assert torch.equal(kept, read)


def counting_data(n: int = 23) -> Data:
    """Images whose every pixel is their number, all of them of another class."""
    labels = torch.arange(n)
    images = labels.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    split = TensorSplit(images, labels)
    return Data("n", tuple(map(str, range(n))), split, split, (0.0,), (1.0,))


def test_training_batches_are_full_and_no_image_comes_twice() -> None:
    data = counting_data()
    config = TrainConfig(batch_size=5, crop_padding=0, flip=False)
    batches = list(Feed(data, torch.arange(23), config, CPU, seed=3, world=World()).epoch(0))
    assert [len(batch.labels) for batch in batches] == [5, 5, 5, 5]
    seen = torch.cat([batch.labels for batch in batches])
    assert len(seen.unique()) == 20
    assert not torch.equal(seen, seen.sort().values)
    for batch in batches:
        torch.testing.assert_close(batch.images[:, 0, 0, 0] * 255, batch.labels.float())
    assert [len(y) for _, y in data.batches(data.train, 5, CPU)] == [5, 5, 5, 5, 3]


def test_cifar_arrays_are_read_as_torchvision_hands_them_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The download itself is torchvision's; what comes out of it is ours to read."""
    import torchvision

    class Stored:
        def __init__(self, root: Path, train: bool, download: bool):
            assert download
            self.data = np.full((6 if train else 2, 32, 32, 3), [50, 100, 150], np.uint8)
            self.targets = [0, 1, 2, 0, 1, 2] if train else [0, 1]
            self.classes = ["x", "y", "z"]

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Stored)
    cifar = load("cifar10", (16, 16), 3, tmp_path)
    assert cifar.classes == ("x", "y", "z")
    assert cifar.mean == pytest.approx((50 / 255, 100 / 255, 150 / 255), abs=1e-4)
    images = next(cifar.train.fetch([torch.tensor([0])], CPU))
    assert images.shape == (1, 3, 16, 16)
    grey = load("cifar10", (32, 32), 1, tmp_path)
    assert next(grey.train.fetch([torch.tensor([0])], CPU)).unique().tolist() == [round(0.299 * 50 + 58.7 + 17.1)]


def test_large_sets_are_decoded_as_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(300):
        paint(tmp_path / ("cat" if number % 2 else "dog") / f"{number:03}.png", number % 200)
    small = load(f"folder:{tmp_path}", (8, 8), 3)
    monkeypatch.setattr(photos, "MEMORY_LIMIT", 0)
    large = load(f"folder:{tmp_path}", (8, 8), 3)
    assert isinstance(large.train, FileSplit)
    for name in ("mean", "std"):
        assert getattr(large, name) == pytest.approx(getattr(small, name), rel=1e-6)
    chosen = torch.randperm(240, generator=torch.Generator().manual_seed(0))
    for index in chosen[40:].tolist():
        large.train.paths[index].write_bytes(b"no image")
    drawn = list(large.batches(large.train, 4, CPU, indices=chosen[:40]))  # the others are not opened
    expected = small.train.images[chosen[:40]]  # type: ignore[attr-defined]
    assert torch.allclose(torch.cat([images for images, _ in drawn]), normalised(large, expected))
    batches = large.batches(large.train, 4, CPU, indices=chosen)
    ahead = 2 * torch.get_num_threads()  # batches that worker processes prepare
    for _ in range(10 - ahead):
        assert len(next(batches)[0]) == 4
    with pytest.raises(InputError, match="is not a readable image"):
        list(batches)


def test_batches_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        paint(tmp_path / ("cat" if number % 2 else "dog") / f"{number}.png", number)
    monkeypatch.setattr(photos, "MEMORY_LIMIT", 0)
    split = load(f"folder:{tmp_path}", (8, 8), 3).train
    loader, made = torch.utils.data.DataLoader, []

    def noted(*args, **options):
        made.append((options["num_workers"], options["prefetch_factor"]))
        return loader(*args, **options)

    monkeypatch.setattr(torch.utils.data, "DataLoader", noted)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for limit in (10**9, 2 * 3 * 64 * 2, 0):  # of bytes; a batch of two images has 3 * 64 * 2
        monkeypatch.setattr(decoding, "AHEAD_LIMIT", limit)
        assert sum(len(batch) for batch in split.fetch(list(torch.arange(6).split(2)), CPU)) == 6
    assert made == [(2, 2), (2, 1), (1, 1)]


def normalised(data: Data, images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(each)[:, None, None] for each in (data.mean, data.std))
    return (images.float() / 255 - mean) / std


def test_large_images_are_scored_in_batches_that_fit_into_memory() -> None:
    seen: list[int] = []

    class Blind(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.nbytes)
            return torch.zeros(len(images), 2)

    for size, count, batches in ((8, 600, 2), (224, 120, 3)):
        split = TensorSplit(torch.zeros(count, 3, size, size, dtype=torch.uint8), torch.arange(count) % 2)
        made = Data("made", ("cat", "dog"), split, split, (0.5,) * 3, (0.5,) * 3)
        right, total = count_right(Blind(), made, split, torch.arange(count), CPU)
        assert (right.tolist(), total.tolist()) == ([count / 2, 0], [count / 2, count / 2])
        assert len(seen) == batches
        assert max(seen) <= 32 * 2**20
        seen.clear()


@pytest.mark.skipif(sys.platform != "linux", reason="memory of a process is read from /proc")
def test_memory_does_not_grow_with_the_images_that_are_scored(tmp_path: Path) -> None:
    paint(tmp_path / "0.png", 100, (224, 224))
    for index in range(1, 660):
        os.link(tmp_path / "0.png", tmp_path / f"{index}.png")
    split = FileSplit(tuple(sorted(tmp_path.iterdir())), torch.zeros(660, dtype=torch.long), (224, 224), 3)
    images = take_test_images(Data("made", ("cat", "dog"), split, split, (0.5,) * 3, (0.5,) * 3))
    configure_allocator()  # as every command does that measures
    held = []
    for batch in images.batches(images.batch_size):
        held.append(psutil.Process().memory_full_info().uss)
        assert batch.nbytes == 33_116_160
    assert len(held) == 12
    assert held[-1] - held[2] < 2 * 33_116_160
