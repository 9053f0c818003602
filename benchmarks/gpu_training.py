"""Training on a device: images a second against timm's step, and CIFAR-10 for as long as there is time."""

import argparse
import itertools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import archive
import torch
import train
import turns
from gpu_steps import Setup
from steps import LeftOut

from baselines.data import Data
from baselines.train import TrainConfig, Trainer, fit
from baselines.vit import VisionTransformer, ViTConfig
from compress import config
from compress.runtimes.server import out_of_memory
from compress.training import finetuning

GEOMETRY, MINIATURE = "vit_s_p4", "16x1p8"  # of `train.py`
BATCH, LR = 1024, 1e-3
WARM_UP, MEASURED = 3, 20  # steps before those, and those that say how many fit into the time
USED = 0.8  # of the time for steps; the rest is for scoring and for what goes wrong
AUGMENTED: dict[str, Any] = {"crop_padding": 4, "cutmix": 0.5, "randaugment": 1, "ema": 0.99}


def read_images(setup: Setup, shape: ViTConfig) -> Data:
    """Those that were carried; raises LeftOut where there are none."""
    if setup.images is None:
        raise LeftOut("no images: make an archive of them with benchmarks/archive.py, and give it with --images")
    return archive.read(setup.images, shape.image_size, shape.channels, setup.threads)


def compare(setup: Setup, _seconds: float) -> Mapping[str, Any]:
    """Images a second of ours and of timm's training, in turns; those of the archive where there is one."""
    device, shape = torch.device(setup.device), train.geometry(MINIATURE if setup.miniature else GEOMETRY)
    split = read_images(setup, shape).train if setup.images else None
    torch.set_float32_matmul_precision("high")  # as `fit` has it; here for both sides

    def race(batch_size: int) -> dict[str, Any]:
        options = argparse.Namespace(
            batch_size=batch_size, randaugment=0, workers=min(setup.threads, 16), no_compile=True
        )
        contestants = train.make(shape, device, options, split)
        seconds, rounds = (0.02, 2) if setup.miniature else (0.8, 6)
        peaks = turns.race(contestants, device, seconds, rounds)
        rows = train.summarise(contestants, peaks, shape)
        if failed := [f"{row['name']}: {row['failed']}" for row in rows if row["failed"]]:
            raise RuntimeError("; ".join(failed))
        names = ("name", "images_per_s", "speedup", "share_of_peak")
        return {"batch_size": batch_size, "rows": [{name: row[name] for name in names} for row in rows]}

    return halve(8 if setup.miniature else 512, race)


def learn(setup: Setup, seconds: float) -> Mapping[str, Any]:
    """Trains for the time that is left, and scores all test images."""
    shape = train.geometry(MINIATURE) if setup.miniature else config.read(train.PRESETS / f"{GEOMETRY}.toml").model
    device, started = torch.device(setup.device), time.monotonic()
    data = read_images(setup, shape)
    shape = shape.model_copy(update={"classes": len(data.classes)})

    def run(batch_size: int) -> dict[str, Any]:
        settings = TrainConfig(batch_size=min(batch_size, len(data.train.labels)), lr=LR, warmup_epochs=0, **AUGMENTED)
        rate = measure_rate(shape, data, settings, device, 2 if setup.miniature else MEASURED)
        left = seconds - (time.monotonic() - started)
        steps = 3 if setup.miniature else max(math.floor(left * USED * rate), 1)
        settings = settings.model_copy(update={"steps": steps, "warmup_steps": steps // 20})
        torch.manual_seed(0)
        model = VisionTransformer(shape)
        history = fit(model, data, settings, device=device, seed=0, title="CIFAR-10")
        top1 = finetuning.score(model, data, device)["top1"]
        return {
            "batch_size": settings.batch_size,
            "steps": steps,
            "epochs": len(history),
            "images_per_s": max(record["images_per_s"] for record in history),
            "top1": top1,
            "test_images": len(data.test.labels),
            "seconds": sum(record["seconds"] for record in history),
        }

    return halve(8 if setup.miniature else BATCH, run)


def measure_rate(shape: ViTConfig, data: Data, settings: TrainConfig, device: torch.device, steps: int) -> float:
    """Steps a second, of a model that is thrown away."""
    trainer = Trainer(VisionTransformer(shape), data, settings.model_copy(update={"steps": steps}), device, 0)
    trainer.model.train()
    batches = itertools.chain.from_iterable(map(trainer.feed.epoch, itertools.count()))
    for batch in itertools.islice(batches, WARM_UP):
        trainer.advance(batch)
    turns.wait(device)
    started = time.perf_counter()
    for batch in itertools.islice(batches, steps):
        trainer.advance(batch)
    turns.wait(device)
    return steps / (time.perf_counter() - started)


def halve(batch_size: int, run: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """What `run` gives for a batch, half as large as long as memory does not hold it."""
    while True:
        try:
            return run(batch_size)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or batch_size == 1:
                raise
        batch_size //= 2
