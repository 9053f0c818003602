# ruff: noqa: E402
"""Images per second of a loader: ours against timm's and torchvision's, in turns, in one process tree.

    python benchmarks/loader.py --rounds 10 --seconds 3
    python benchmarks/loader.py --memory 100000

Every row reads the same JPEG files of 500 x 375 pixels, cuts random-resized crops of 8 to 100 % out of them, mirrors
every second one, and hands over normalized float batches of 224 x 224, with as many worker processes and batches ahead:

    ours, files              a tree of class folders, as `--data PATH` reads a set that does not fit into memory
    ours, shards             the same files in tar files, as `--data webdataset:PATH`
    timm                     `create_dataset` and `create_loader` with its prefetcher, of the folders
    torchvision              `ImageFolder` and a DataLoader, transforms of PIL images as in its reference training
    torchvision, tensors     the same with `decode_image` and transforms v2 of tensors

There are --files different images; links make --images of them, so that no epoch ends within the race. All of them
come from memory, not from a disk: what is compared is work of processors. The workers of a row that has no turn are
stopped. With --memory, our loader alone goes through that many images, and the memory of all its processes (PSS: shared
pages count once) is written down as it goes, and in the end the time that processors spent on an image.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress.measure import environment

environment.limit_spinning()  # before torch is loaded, as every command of this package does

from collections import Counter

import numpy as np
import psutil
import torch
import turns
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from turns import Contestant

from baselines import folders, shards
from baselines.data import Data
from baselines.decoding import FileSplit
from baselines.distributed import ALONE
from baselines.errors import InputError
from baselines.feed import Feed
from baselines.recipe import TrainConfig
from compress import files
from compress.cli import terminal
from compress.measure import latency

SIDE, CLASSES = 224, 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE = (0.08, 1.0)
POINTS = 20  # of a memory curve
CPU = torch.device("cpu")


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.workers)
    environment.configure_allocator()
    with tempfile.TemporaryDirectory(prefix="compress_loader_") as place:
        os.environ["XDG_CACHE_HOME"] = f"{place}/cache"
        print(f"makes {options.files} images, and links to them", file=sys.stderr)
        material = Path(place)
        make_folders(material, options.files, max(options.images, options.memory))
        found = measure_memory(material, options) if options.memory else compare(material, options)
    if options.out:
        facts = {"environment": environment.capture("cpu", options.workers), "options": vars(options)}
        files.write(options.out, json.dumps({**facts, "rows": found}, indent=1, default=str))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=256, help="different images")
    parser.add_argument("--images", type=int, default=50_000, help="links to them")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=environment.available_cpus(), help="processes of each loader")
    parser.add_argument("--seconds", type=float, default=3, help="of one turn")
    parser.add_argument("--rounds", type=int, default=10, help="with fewer than 5 an interval says little")
    parser.add_argument("--memory", type=int, default=0, help="images of a memory curve, instead of the race")
    parser.add_argument("--out", type=Path, help="JSON file for all figures")
    return parser.parse_args()


def make_folders(place: Path, count: int, links: int) -> None:
    """`files/CLASS/*.jpg` and `shards/*.tar`, of about 90 KB an image, both linked until they are `links`."""
    for name in range(CLASSES):
        (place / "files" / f"class{name}").mkdir(parents=True)
    (place / "shards").mkdir()
    webdataset: Any = __import__("webdataset")
    with webdataset.TarWriter(f"{place}/shards/000000.tar") as writer:
        for number in range(count):
            path = place / "files" / f"class{number % CLASSES}" / f"{number:08}.jpg"
            photo(number).save(path, quality=90)
            writer.write({"__key__": path.stem, "jpg": path.read_bytes(), "cls": number % CLASSES})
            for copy in range(count + number, links, count):
                os.link(path, path.with_name(f"{copy:08}.jpg"))
    for copy in range(1, -(-links // count)):
        os.link(f"{place}/shards/000000.tar", f"{place}/shards/{copy:06}.tar")


def photo(seed: int) -> Image.Image:
    """Noise of many scales, whose JPEG files are as large as those of photos."""
    chance, pixels = np.random.default_rng(seed), np.full((375, 500, 3), 110, np.float32)
    for scale, height in ((4, 60), (16, 40), (64, 25), (250, 18), (500, 9)):
        coarse = chance.normal(size=(3, max(scale * 3 // 4, 2), scale)).astype(np.float32)
        resized = [np.asarray(Image.fromarray(each).resize((500, 375), Image.Resampling.BICUBIC)) for each in coarse]
        pixels += height * np.stack(resized, 2)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def ours(found: folders.Files, batch_size: int) -> Iterator[int]:
    split = FileSplit(found.paths, found.labels, (SIDE, SIDE), 3)
    config = TrainConfig(batch_size=batch_size, crop_scale=SCALE[0], crop_padding=0)
    feed = Feed(Data("made", found.classes, split, split, MEAN, STD), torch.arange(len(split)), config, CPU, 0, ALONE)
    for epoch in itertools.count():
        yield from (len(batch.images) for batch in feed.epoch(epoch))


def timm(root: Path, options: argparse.Namespace) -> Iterator[int]:
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", root=str(root)),
        (3, SIDE, SIDE),
        options.batch_size,
        is_training=True,
        scale=SCALE,
        color_jitter=0,
        mean=MEAN,
        std=STD,
        num_workers=options.workers,
        device=CPU,
    )
    while True:
        yield from (len(images) for images, _ in loader)


def torchvision(root: Path, options: argparse.Namespace, tensors: bool) -> Iterator[int]:
    from torchvision import datasets, io
    from torchvision.transforms import v2

    kinds: dict[str, Any] = {"loader": lambda path: io.decode_image(path, io.ImageReadMode.RGB)} if tensors else {}
    steps: list[Any] = [v2.RandomResizedCrop(SIDE, SCALE, antialias=True), v2.RandomHorizontalFlip()]
    steps += [] if tensors else [v2.PILToTensor()]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    source = datasets.ImageFolder(root, v2.Compose(steps), **kinds)
    loader = DataLoader(source, options.batch_size, shuffle=True, num_workers=options.workers, drop_last=True)
    while True:
        yield from (len(images) for images, _ in loader)


def compare(place: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    try:
        import timm as _  # noqa: F401
    except ImportError as error:
        raise InputError(f"timm cannot be imported ({error}); run pip install 'compress-vit[benchmark]'") from error
    root = place / "files"
    listed = {"files": folders.scan(root, Counter()), "shards": shards.read_shards(f"webdataset:{place}/shards").train}
    rows = {f"ours, {name}": ours(found, options.batch_size) for name, found in listed.items()}
    rows |= {"timm": timm(root, options), "torchvision": torchvision(root, options, False)}
    rows |= {"torchvision, tensors": torchvision(root, options, True)}
    contestants = {name: Contestant("fp32", steps) for name, steps in rows.items()}
    turns.race(contestants, CPU, options.seconds, options.rounds, types={})
    table = Table(title=f"{environment.cpu_name()}, {options.workers} workers, batch {options.batch_size}")
    for heading in ("loader", "images/s", "ratio to timm [95 %]"):
        table.add_column(heading, justify="left" if heading == "loader" else "right")
    results: list[dict[str, Any]] = []
    for name, contestant in contestants.items():
        rates = [1 / sample for sample in contestant.timing.samples]
        ratio = latency.speedup(contestants["timm"].timing, contestant.timing)
        results.append({"name": name, "images_per_s": rates, "ratio": ratio, "failed": contestant.timing.failed})
        said = "" if ratio is None else "{:.2f} [{:.2f}, {:.2f}]".format(*ratio)
        table.add_row(name, f"{statistics.median(rates):.0f}" if rates else str(contestant.timing.failed), said)
    Console(width=120, highlight=False).print(table)
    return results


def measure_memory(place: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """PSS of this process and its workers, while all images go through the training loader."""
    steps = ours(folders.scan(place / "files", Counter()), options.batch_size)
    done, points = 0, []
    while done < options.memory - options.batch_size:  # within one epoch
        done += next(steps)
        if done >= len(points) * options.memory / POINTS or not points:
            processes = (psutil.Process(), *psutil.Process().children(recursive=True))
            held = [each.memory_full_info().pss for each in processes]
            spent = [each.cpu_times().user + each.cpu_times().system for each in processes]
            points.append({"images": done, "mebibytes": round(sum(held) / 2**20), "processor_s": spent})
            print(f"{done:,} images: {points[-1]['mebibytes']:,} MiB in {len(held)} processes", flush=True)
    first, last = (
        np.array([*each["processor_s"][:1], sum(each["processor_s"][1:])]) for each in (points[0], points[-1])
    )
    main_ms, worker_ms = 1e3 * (last - first) / (points[-1]["images"] - points[0]["images"])
    print(f"processor time an image: {worker_ms:.2f} ms in workers, {main_ms:.2f} ms in the main process")
    return points


if __name__ == "__main__":
    sys.exit(terminal.guarded(main))
