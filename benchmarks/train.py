# ruff: noqa: E402
"""Images per second of training: ours against timm's `VisionTransformer` fed by a DataLoader, in turns, in one process.

    python benchmarks/train.py --seconds 2 --rounds 8

Both sides train one geometry with the same batch, threads, augmentation in kind (crop padding 4, flip, normalization,
RandAugment on request), AdamW, label smoothing, gradient clipping and, in bf16, autocast. Every row counts all that
happens between two batches of a running training:

    ours              batches from uint8 images on the device (gathered, augmented and normalized whole), forward,
                      backward, clipping, fused AdamW, and the average of the weights unless the row leaves it out
    timm              a shuffled DataLoader of PIL images with torchvision's transforms and worker processes, forward,
                      backward, clipping, AdamW as `torch.optim.AdamW(parameters)` makes it; no average of the weights
    timm, no loader   the same, over batches that were made before

Images are random bytes, 2,048 of them, and lie in memory on both sides: no disk, no JPEG. The workers of a row that
has no turn are stopped, so that they neither take processors from another row nor prepare batches that nobody pays
for. `speed-up` is over the whole timm training in the same precision; `of peak` is 3 x 2 x MACs of one forward pass x
images/s over the best large square matrix product in that precision. Two cores: about 4 minutes.
"""

import argparse
import itertools
import json
import re
import statistics
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from compress.measure import environment

environment.limit_spinning()  # before torch is loaded, as every command of this package does

import peer
import torch
import turns
from rich.console import Console
from rich.table import Table
from turns import Contestant

from baselines import device as devices
from baselines.data import Data, TensorSplit
from baselines.errors import InputError
from baselines.macs import dense_macs
from baselines.train import TrainConfig, Trainer
from baselines.vit import VisionTransformer, ViTConfig
from compress import config, files
from compress.cli import terminal
from compress.measure import latency

PRESETS = Path(__file__).resolve().parents[1] / "configs" / "baselines"
GOALS = {"cpu": 1.5, "cuda": 3.0}  # of ours over timm, in bf16
IMAGES = 2048
NORMALISATION = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def main() -> None:
    options = arguments()
    device, shape = devices.resolve(options.device), geometry(options.geometry)
    try:
        import timm  # noqa: F401
    except ImportError as error:
        raise InputError(f"timm cannot be imported ({error}); run pip install 'compress-vit[benchmark]'") from error
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")  # as `fit` has it; here for all rows
    environment.configure_allocator()
    contestants = make(shape, device, options)
    peaks = turns.race(contestants, device, options.seconds, options.rounds)
    rows = summarise(contestants, peaks, shape)
    show(rows, peaks, shape, device, options)
    if options.out:
        facts = {"environment": environment.capture(device.type, options.threads), "options": vars(options)}
        files.write(options.out, json.dumps({**facts, "peak_flops": peaks, "rows": rows}, indent=1, default=str))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", default="384x6p8", help="DIMxDEPTHpPATCH, or a name in configs/baselines")
    parser.add_argument("--seconds", type=float, default=2, help="of one turn")
    parser.add_argument("--rounds", type=int, default=8, help="with fewer than 5 an interval says little")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--threads", type=int, default=environment.available_cpus())
    parser.add_argument("--workers", type=int, default=environment.available_cpus(), help="of the DataLoader")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--randaugment", type=int, default=0, help="operations on each image, on both sides")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes a minute")
    parser.add_argument("--out", type=Path, help="JSON file for all figures")
    return parser.parse_args()


def geometry(name: str) -> ViTConfig:
    if found := re.fullmatch(r"(\d+)x(\d+)p(\d+)", name):
        dim, depth, patch = (int(part) for part in found.groups())
        return ViTConfig(patch_size=patch, dim=dim, depth=depth, heads=max(dim // 64, 1), mlp_dim=4 * dim)
    if (path := PRESETS / f"{name}.toml").is_file():
        return config.read(path).model
    raise InputError(f"--geometry {name!r} is no file in {PRESETS}; give one, or DIMxDEPTHpPATCH such as 384x6p8")


def make(
    shape: ViTConfig, device: torch.device, options: argparse.Namespace, split: TensorSplit | None = None
) -> dict[str, Contestant]:
    """All rows by name, in the order of the table; without images they train random bytes."""
    if split is None:
        pixels = torch.randint(0, 256, (IMAGES, shape.channels, *shape.image_size), dtype=torch.uint8)
        split = TensorSplit(pixels, torch.arange(IMAGES) % shape.classes)
    common = {"batch_size": options.batch_size, "randaugment": options.randaugment, "compile": False}
    common |= {"steps": 10**8, "schedule": "constant", "warmup_epochs": 0}  # for ever, at one learning rate
    bf16, fp32 = (TrainConfig.model_validate({**common, "precision": name}) for name in ("bf16", "fp32"))
    mine = partial(ours, shape, split, device)
    theirs = partial(peer.steps, shape, split, normalization=NORMALISATION, device=device)
    rows = {
        "ours bf16": Contestant("bf16", mine(bf16)),
        "ours bf16, no average": Contestant("bf16", mine(bf16.model_copy(update={"ema": 0.0}))),
        "ours bf16, compiled": Contestant("bf16", mine(bf16.model_copy(update={"compile": True}))),
        "ours fp32": Contestant("fp32", mine(fp32)),
        "timm bf16": Contestant("bf16", theirs(recipe=bf16, workers=options.workers)),
        "timm bf16, no loader": Contestant("bf16", theirs(recipe=bf16, workers=None)),
        "timm fp32": Contestant("fp32", theirs(recipe=fp32, workers=options.workers)),
    }
    if options.no_compile:
        del rows["ours bf16, compiled"]
    return rows


def ours(shape: ViTConfig, split: TensorSplit, device: torch.device, recipe: TrainConfig) -> Iterator[int]:
    """Trains for ever and gives the number of images after each step."""
    names = tuple(str(number) for number in range(shape.classes))
    data = Data("random", names, split, split, *NORMALISATION)
    torch.manual_seed(0)
    trainer = Trainer(VisionTransformer(shape), data, recipe, device, seed=0)
    trainer.model.train()
    for epoch in itertools.count():
        for batch in trainer.feed.epoch(epoch):
            trainer.advance(batch)
            yield len(batch.labels)


def summarise(contestants: dict[str, Contestant], peaks: dict[str, float], shape: ViTConfig) -> list[dict[str, Any]]:
    """What is known of each row; None where it could not start."""
    flops = 3 * 2 * dense_macs(shape)  # of training on one image: backward costs as much as two forward passes
    rows: list[dict[str, Any]] = []
    for name, contestant in contestants.items():
        rates = [1 / sample for sample in contestant.timing.samples]
        middle = statistics.median(rates) if rates else None
        whole = contestants[f"timm {contestant.precision}"].timing
        rows.append(
            {
                "name": name,
                "failed": contestant.timing.failed,
                "images_per_s": middle,
                "images_per_s_of_rounds": rates,
                "speedup": latency.speedup(whole, contestant.timing),
                "share_of_peak": middle and middle * flops / peaks[contestant.precision],
            }
        )
    return rows


def show(
    rows: list[dict[str, Any]],
    peaks: dict[str, float],
    shape: ViTConfig,
    device: torch.device,
    options: argparse.Namespace,
) -> None:
    chip = torch.cuda.get_device_name() if device.type == "cuda" else environment.cpu_name()
    table = Table(
        title=f"{options.geometry}, {dense_macs(shape) / 1e6:.0f} M MACs, batch {options.batch_size}, {chip}, "
        f"{options.threads} threads, {options.workers} loader processes, torch {torch.__version__}"
    )
    for heading in ("training", "images/s", "speed-up [95 %]", "of peak"):
        table.add_column(heading, justify="left" if heading == "training" else "right")
    for row in rows:
        if row["images_per_s"] is None:
            table.add_row(row["name"], "", row["failed"] or "no rounds", "")
            continue
        middle, low, high = row["speedup"] or (None,) * 3
        ratio = "" if middle is None else f"{middle:.2f} [{low:.2f}, {high:.2f}]"
        table.add_row(row["name"], f"{row['images_per_s']:.0f}", ratio, f"{row['share_of_peak']:.0%}")
    console = Console(width=120, highlight=False)
    console.print(table)
    console.print("peak: " + ", ".join(f"{name} {peak / 1e9:,.0f} GFLOP/s" for name, peak in peaks.items()))
    found = next(row["speedup"] for row in rows if row["name"] == "ours bf16")
    if found is not None:
        (middle, low, high), goal = found, GOALS[device.type]
        verdict = "reached" if low >= goal else "missed" if high < goal else "undecided, give it more --rounds"
        console.print(f"ours over timm in bf16: {middle:.2f}; goal {goal:.1f} on {device.type}: {verdict}")


if __name__ == "__main__":
    sys.exit(terminal.guarded(main))
