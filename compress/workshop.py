"""Trains, compresses and builds, and keeps all of it in a run directory, so that nothing is done twice.

Work is kept under a hash of what it depends on:

    OUT/best_vit_model.pth                       copy of the baseline that was made or used last
    OUT/models/<variant>-<hash>/best_<variant>_model.pth, training.jsonl, state.pt while training, and
                                artifacts: <variant>.pth, <variant>.onnx
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines import sources
from baselines.data import Data
from baselines.errors import InputError
from baselines.train import fit
from baselines.vit import VisionTransformer
from compress import __version__, checkpoint, files, variant
from compress.checkpoint import StateFile
from compress.config import BenchConfig
from compress.export import PARITY_BATCHES
from compress.runtimes import Runtime
from compress.variant import Variant

PARITY_IMAGES = 64
LONG_EPOCH_S = 10.0  # a shorter one is not worth a line


@dataclass(frozen=True)
class Built:
    """A trained model on disk."""

    variant: Variant
    path: Path  # of its checkpoint
    key: str  # hash of all it depends on


class Workshop:
    """Makes models of one configuration on one data set.

    Args:
        out: run directory, writable.
        device: where training happens.
        start: checkpoint to use as the baseline instead of training one.
        say: takes lines for the person at the terminal.
    """

    def __init__(self, config: BenchConfig, out: Path, device: torch.device, say: Any, start: Path | None = None):
        self.out, self.device, self.say = out, device, say
        self.start = variant.restore(start) if start else None
        if self.start and self.start[1].methods:
            raise InputError(
                f"--checkpoint {start} is already {self.start[1].name!r}; give the checkpoint of a baseline"
            )
        model_config = self.start[2].config if self.start else config.model
        self.data = load_data(config.data, model_config.image_size, model_config.channels, out)
        if self.start:
            check_classes(start, self.start[2].classes, self.data)
            self.data = self.data.normalised(self.start[2].mean, self.start[2].std)
        classes = len(self.data.classes)
        if "classes" in config.model.model_fields_set and config.model.classes != classes:
            raise InputError(
                f"[model] classes = {config.model.classes}, but {config.data} has {classes}; remove the key"
            )
        self.config = config.model_copy(update={"model": model_config.model_copy(update={"classes": classes})})

    @property
    def calibration(self) -> list[Tensor]:
        """Training images, fixed by the data set alone, in batches."""
        return sample_images(self.data, self.config.calibration_images)

    def baseline(self) -> Built:
        """The dense model: loaded, found or trained."""
        if self.start:
            weights = [files.key(value.tolist()) for value in self.start[2].state.values()]
            built = self._place(Variant(()), [self.start[2].config.model_dump(), weights])
            if not built.path.exists():
                checkpoint.save(built.path, self.start[2])
            return built
        parts = [self.config.model.model_dump(), self.config.train.model_dump(), self.config.seed]
        built = self._place(Variant(()), parts)
        if not built.path.exists():
            self._train(built)
        newest, content = self.out / "best_vit_model.pth", built.path.read_bytes()
        if not newest.exists() or newest.read_bytes() != content:
            files.write(newest, content)
        return built

    def _train(self, built: Built) -> None:
        torch.manual_seed(self.config.seed)
        model = VisionTransformer(self.config.model)
        self.say(f"training vit on {self.data.name}: {self.config.train.epochs} epochs on {self.device}")
        state, started = StateFile(built.path.with_name("state.pt")), time.perf_counter()
        history = fit(
            model,
            self.data,
            self.config.train,
            device=self.device,
            seed=self.config.seed,
            title="train vit",
            snapshot=state,
            log=self._log(built),
        )
        self._keep(model, built, history, state, started)

    def make(self, wanted: Variant) -> Built:
        """A variant, stage by stage; each begins with what the one before made."""
        built = baseline = self.baseline()
        for stage in wanted.stages:
            parts = [baseline.key, stage.describe(), self.config.calibration_images]
            if any(method.from_scratch for method in stage.methods):
                parts.append(self.config.train.model_dump())
            if any(method.trains for method in stage.methods):
                parts += [self.config.finetune.model_dump(), self.config.seed]
            target = self._place(stage, parts)
            if not target.path.exists():
                self._add(built, target, baseline)
            built = target
        return built

    def artifact(self, built: Built, runtime: Runtime) -> Path:
        """The file that `runtime` runs, made if it is missing."""
        path = built.path.with_name(built.variant.name + runtime.suffix)
        if not path.exists():
            model, variant_, content = variant.restore(built.path)
            self.say(f"building {path.name} for {runtime.name}")
            runtime.build(model, variant_, content, path, parity_images(self.data))
        return path

    def _add(self, start: Built, target: Built, baseline: Built) -> None:
        model, done, _ = variant.restore(start.path)
        new = target.variant.methods[len(done.methods) :]
        what = "training" if any(method.trains for method in new) else "calibrating"
        self.say(f"{what} {target.variant.name}")
        anew = any(method.from_scratch for method in new)
        torch.manual_seed(self.config.seed)  # of new weights, where there are any
        state, started = StateFile(target.path.with_name("state.pt")), time.perf_counter()
        model, history = variant.apply(
            model,
            done.methods,
            new,
            self.data,
            teacher=variant.restore(baseline.path)[0],
            training=self.config.train if anew else self.config.finetune,
            calibration=self.calibration,
            device=self.device,
            seed=self.config.seed + (not anew),
            title=f"{what} {target.variant.name}",
            snapshot=state,
            log=self._log(target),
        )
        self._keep(model, target, history, state, started)

    def _log(self, built: Built) -> Callable[[dict[str, float]], None]:
        """Tells how each epoch went that took long enough to be waited for."""

        def log(record: dict[str, float]) -> None:
            if record["seconds"] < LONG_EPOCH_S:
                return
            parts = [f"epoch {record['epoch']:.0f}", f"loss {record['loss']:.3f}"]
            parts += [f"train {record['train_top1']:.1%}"]
            parts += [f"validation {record['validation_top1']:.1%}"] if "validation_top1" in record else []
            self.say(f"  {built.variant.name}: {', '.join(parts)}, {record['images_per_s']:,.0f} images/s")

        return log

    def _keep(
        self, model: VisionTransformer, built: Built, history: list[dict[str, float]], state: StateFile, started: float
    ) -> None:
        """The checkpoint last: where it stands, the work is whole."""
        if history:
            files.write(built.path.with_name("training.jsonl"), "".join(json.dumps(entry) + "\n" for entry in history))
            seen = sum(entry["images_per_s"] * entry["seconds"] for entry in history)
            speed = seen / sum(entry["seconds"] for entry in history)
            self.say(f"  {built.variant.name} done in {time.perf_counter() - started:.0f} s, {speed:,.0f} images/s")
        checkpoint.save(built.path, variant.pack(model, built.variant.methods, self.data, model.config))
        state.remove()

    def _place(self, which: Variant, parts: list[Any]) -> Built:
        key = files.key(__version__, self.data.name, self.data.fingerprint, which.name, *parts)
        folder = self.out / "models" / f"{which.name}-{key}"
        return Built(which, folder / f"best_{which.name}_model.pth", key)


def load_data(name: str, image_size: tuple[int, int], channels: int, out: Path) -> Data:
    return sources.load(name, image_size, channels, root=out / "data")


def check_classes(path: Path | None, classes: tuple[str, ...], data: Data) -> None:
    """Raises InputError where a checkpoint knows other classes than a data set."""
    if classes != data.classes:
        raise InputError(
            f"{path} knows {len(classes)} classes ({', '.join(classes[:3])}, ...), {data.name} has {len(data.classes)} "
            f"({', '.join(data.classes[:3])}, ...); give the data it was trained on with --data"
        )


def sample_images(data: Data, count: int) -> list[Tensor]:
    """Normalised training images, chosen by a fixed seed, on the CPU, in batches of up to 128."""
    order = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(0))[:count]
    return [images for images, _ in data.batches(data.train, 128, torch.device("cpu"), indices=order)]


def parity_images(data: Data) -> Tensor:
    """Training images for the check of an exported graph, (n, C, height, width); few ones come again and again."""
    images = torch.cat(sample_images(data, PARITY_IMAGES))
    return images.repeat(-(-sum(PARITY_BATCHES) // len(images)), 1, 1, 1)
