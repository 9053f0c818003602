# ruff: noqa: E402
"""Images per second of a loader: ours against timm's and torchvision's, in turns, in one process tree.

    python benchmarks/loader.py --rounds 10 --seconds 3
    python benchmarks/loader.py --processor 2000 --workers 1 --rounds 5
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
stopped. With --processor, each loader goes through that many images alone, with one worker, --rounds times, and the
time that processors spend counts: unlike images/s it hardly depends on what else the machine does. With --memory, ours
alone goes through that many images, and the memory of all its processes (PSS: shared pages count once) is written down.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
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
        found = (measure_memory if options.memory else measure_processor if options.processor else compare)(
            material, options
        )
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
    parser.add_argument("--processor", type=int, default=0, help="images of each loader alone, instead of the race")
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


def ours(found: folders.Files, options: argparse.Namespace) -> Iterator[int]:
    split = FileSplit(found.paths, found.labels, (SIDE, SIDE), 3)
    config = TrainConfig(batch_size=options.batch_size, crop_scale=SCALE[0], crop_padding=0)
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


def list_loaders(place: Path, options: argparse.Namespace) -> dict[str, Callable[[], Iterator[int]]]:
    """Each starts its loader, and gives the number of images of each batch, for ever."""
    try:
        import timm as _  # noqa: F401
    except ImportError as error:
        raise InputError(f"timm cannot be imported ({error}); run pip install 'compress-vit[benchmark]'") from error
    root = place / "files"
    listed = {"files": folders.scan(root, Counter()), "shards": shards.read_shards(f"webdataset:{place}/shards").train}
    return {
        "ours, files": partial(ours, listed["files"], options),
        "ours, shards": partial(ours, listed["shards"], options),
        "timm": partial(timm, root, options),
        "torchvision": partial(torchvision, root, options, False),
        "torchvision, tensors": partial(torchvision, root, options, True),
    }


def compare(place: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Images per second in turns."""
    contestants = {name: Contestant("fp32", start()) for name, start in list_loaders(place, options).items()}
    turns.race(contestants, CPU, options.seconds, options.rounds, types={})
    table = Table(title=f"{environment.cpu_name()}, {options.workers} workers, batch {options.batch_size}")
    for heading in ("loader", "images/s", "ratio to timm [95 %]"):
        table.add_column(heading, justify="left" if heading == "loader" else "right")
    results: list[dict[str, Any]] = []
    for name, contestant in contestants.items():
        rates, failed = [1 / sample for sample in contestant.timing.samples], contestant.timing.failed
        ratio = latency.speedup(contestants["timm"].timing, contestant.timing)
        results.append({"name": name, "failed": failed, "images_per_s": rates, "ratio": ratio})
        said = "" if ratio is None else "{:.2f} [{:.2f}, {:.2f}]".format(*ratio)
        table.add_row(name, f"{statistics.median(rates):.0f}" if rates else failed, said)
    Console(width=120, highlight=False).print(table)
    return results


def measure_processor(place: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Processor time of an image, in the main process and in the worker, round by round."""
    loaders, wanted = list_loaders(place, options), range(0, options.processor, options.batch_size)
    results: dict[str, Any] = {name: {"name": name, "main_ms": [], "worker_ms": []} for name in loaders}
    for name, start in [*loaders.items()] * options.rounds:
        steps = start()
        next(steps)
        before = read_clocks()
        images = sum(next(steps) for _ in wanted)
        for key, spent in zip(("main_ms", "worker_ms"), read_clocks() - before, strict=True):
            results[name][key].append(1e3 * spent / images)
        steps.close()  # type: ignore[attr-defined]  # with its workers
    table = Table(title=f"{environment.cpu_name()}, processor time an image, median of {options.rounds} rounds")
    for heading in ("loader", "worker ms", "main ms", "sum", "timm / sum"):
        table.add_column(heading, justify="left" if heading == "loader" else "right")
    sums = {name: np.median(np.add(each["main_ms"], each["worker_ms"])) for name, each in results.items()}
    for name, each in results.items():
        parts = (np.median(each[key]) for key in ("worker_ms", "main_ms"))
        table.add_row(name, *(f"{value:.2f}" for value in (*parts, sums[name], sums["timm"] / sums[name])))
    Console(width=120, highlight=False).print(table)
    return [*results.values()]


def read_clocks() -> np.ndarray:
    """Seconds that processors have spent on this process, and on all that it started."""
    workers = [each.cpu_times() for each in psutil.Process().children(recursive=True)]
    return np.array([time.process_time(), sum(times.user + times.system for times in workers)])


def measure_memory(place: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """PSS of this process and its workers, while all images go through the training loader."""
    steps = ours(folders.scan(place / "files", Counter()), options)
    done, points = 0, []
    while done < options.memory - options.batch_size:  # within one epoch
        done += next(steps)
        if done >= len(points) * options.memory / POINTS or not points:
            processes = (psutil.Process(), *psutil.Process().children(recursive=True))
            held = sum(each.memory_full_info().pss for each in processes)
            points.append({"images": done, "processes": len(processes), "mebibytes": round(held / 2**20)})
            print(points[-1], flush=True)
    return points


if __name__ == "__main__":
    sys.exit(terminal.guarded(main))
