"""A folder of images as one file that is easily carried: the bytes of all image files in one uint8 array.

    python benchmarks/archive.py cifar10 cifar10.npz      a folder as --data takes it

Nothing is decoded or encoded again: 60,000 JPEG files of CIFAR-10 are 18 MB, their pixels would be 184.
"""

import argparse
import io
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from baselines.data import Data, TensorSplit
from baselines.errors import InputError
from baselines.folders import find_splits, scan
from baselines.images import decode
from baselines.resizing import STRETCHED

SAMPLE = 10_000  # images whose mean and deviation are taken


@dataclass(frozen=True)
class Bytes:
    """An image file in memory."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name

    def open(self) -> IO[bytes]:
        return io.BytesIO(self.content)

    @property
    def facts(self) -> tuple[Any, ...]:
        return self.name, len(self.content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with train/ and test/, which hold a folder for each class")
    parser.add_argument("archive", type=Path, help=".npz file that is written")
    options = parser.parse_args()
    write(options.folder, options.archive)
    print(f"{options.archive}: {options.archive.stat().st_size / 1e6:.1f} MB")


def write(folder: Path, archive: Path) -> None:
    """Packs the image files of a tree of class folders.

    Raises:
        InputError: it holds no training and test images, or not of the same classes.
    """
    found = find_splits(folder)
    if found is None:
        raise InputError(f"{folder} holds no train/ and test/; give a folder that does")
    content: dict[str, Any] = {"classes": np.array(scan(found.train, Counter()).classes)}
    for name, place in (("train", found.train), ("test", found.test)):
        images = scan(place, Counter())
        if images.classes != tuple(content["classes"]):
            raise InputError(f"{found.train} and {place} hold different class folders; make them equal")
        files = [Path(str(path)).read_bytes() for path in images.paths]
        content[f"{name}_bytes"] = np.frombuffer(b"".join(files), np.uint8)
        content[f"{name}_ends"] = np.cumsum([len(each) for each in files])
        content[f"{name}_labels"] = images.labels.numpy()
    np.savez(archive, **content)


def read(archive: Path, image_size: tuple[int, int], channels: int, threads: int) -> Data:
    """The data set of an archive, decoded."""
    with np.load(archive, allow_pickle=False) as content, ThreadPoolExecutor(threads) as pool:
        classes = tuple(map(str, content["classes"]))
        train, test = (_decode(content, name, image_size, channels, pool) for name in ("train", "test"))
    some = train.images[:: max(len(train.images) // SAMPLE, 1)]
    std, mean = torch.std_mean(some.float().div_(255), (0, 2, 3))
    return Data(archive.stem, classes, train, test, tuple(mean.tolist()), tuple(std.clamp(min=1e-3).tolist()))


def _decode(
    content: Mapping[str, np.ndarray], name: str, image_size: tuple[int, int], channels: int, pool: ThreadPoolExecutor
) -> TensorSplit:
    parts = np.split(content[f"{name}_bytes"], content[f"{name}_ends"][:-1])
    files = [Bytes(f"{name} {index}", part.tobytes()) for index, part in enumerate(parts)]
    pixels = torch.stack([*pool.map(lambda file: decode(file, image_size, channels, STRETCHED), files)])
    return TensorSplit(pixels, torch.from_numpy(content[f"{name}_labels"]).long())


if __name__ == "__main__":
    main()
