"""Trains, compresses and builds, and keeps all of it in a run directory, so that nothing is done twice.

Work is kept under a hash of what it depends on:

    OUT/manifest.csv                             images used, where [subset] cuts the data set
    OUT/best_vit_model.pth                       copy of the baseline that was made or used last
    OUT/models/<variant>-<hash>/best_<variant>_model.pth, training.jsonl, state.pt while training, and
                                artifacts: <variant>.pth, <variant>.onnx
    OUT/tensorboard/<variant>-<hash>/            event files, where they are asked for
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.classifier import Classifier, ImageConfig
from baselines.data import Data
from baselines.distributed import ALONE, World
from baselines.errors import InputError
from baselines.subset import manifest
from baselines.train import TrainConfig, Trainer, fit
from baselines.vit import ViTConfig
from compress import __version__, files, loading, variant
from compress.checkpoints import checkpoint, initial
from compress.checkpoints.checkpoint import StateFile
from compress.config import BenchConfig
from compress.importers import Hints
from compress.runtimes import Runtime
from compress.training import curves, finetuning, teacher
from compress.training.curves import Curves
from compress.training.data import describe_calibration, load_data, parity_images, sample_images, settle
from compress.variant import Variant


@dataclass(frozen=True)
class Built:
    """A trained model on disk."""

    variant: Variant
    path: Path  # of its checkpoint
    key: str  # hash of all it depends on
    pretrained: bool = False  # has seen no labels


class Workshop:
    """Makes models of one configuration on one data set.

    Args:
        out: run directory, writable.
        device: where training happens.
        start: checkpoint to use as the baseline instead of training one.
        say: takes lines for the person at the terminal.
        tensorboard: whether trainings are written as TensorBoard reads them.
        anew: variant whose training begins from nothing; what was begun or finished of it is discarded.
        world: processes that train together. All do the same; the first alone reads and writes in `out`.
        hints: what the files of `start` and of the weights that training begins with do not say themselves.
    """

    def __init__(
        self,
        config: BenchConfig,
        out: Path,
        device: torch.device,
        say: Any,
        start: Path | None = None,
        *,
        tensorboard: bool = False,
        anew: Variant | None = None,
        world: World = ALONE,
        hints: Hints | None = None,
    ):
        self.out, self.device, self.say, self.world = out, device, say, world
        self.tensorboard, self.anew = tensorboard, anew
        self.state: StateFile | None = None  # of the training that runs
        if tensorboard:
            curves.writer_class()  # whether it is installed is better known now than after loading the data
        code = hints.model if hints else None
        self.start = loading.restore(start, hints) if start or code else None
        if self.start and self.start[1].methods:
            raise InputError(
                f"--checkpoint {start} is already {self.start[1].name!r}; give the checkpoint of a baseline"
            )
        self.initial = initial.given(config.init, config.model, start or (Path(code) if code else None), hints)
        self.geometry: ImageConfig = self.start[2].config if self.start else config.model  # of the baseline

        def load() -> Data:
            return load_data(config.data, self.geometry.image_size, self.geometry.channels, out, config.subset)

        self.data = load() if config.data.startswith("folder:") else world.in_turn(load)  # what is fetched, once
        if config.subset and world.rank == 0:
            files.write(out / "manifest.csv", manifest(self.data, config.train.validation))
        if self.start:
            model, which, content = self.start
            name = start or Path(code or "")
            content, self.data = settle(name, model, content, self.data, hints or Hints(), say)
            self.start = model, which, content
        self.data = self.initial.normalise(self.data) if self.initial else self.data
        teacher.check(config.methods, self.data)
        classes = len(self.data.classes)
        if "classes" in config.model.model_fields_set and config.model.classes != classes:
            raise InputError(
                f"[model] classes = {config.model.classes}, but {config.data} has {classes}; remove the key"
            )
        self.geometry = self.geometry.model_copy(update={"classes": classes})
        vit = self.geometry if isinstance(self.geometry, ViTConfig) else config.model
        self.config = config.model_copy(update={"model": vit})

    @property
    def dense(self) -> Variant:
        """The baseline as a variant."""
        return Variant((), variant.base_of(self.geometry))

    @property
    def calibration(self) -> list[Tensor]:
        """Training images, fixed by the data set alone, in batches."""
        return sample_images(self.data, self.config.calibration_images)

    def baseline(self) -> Built:
        """The dense model: loaded, found or trained."""
        if self.start:
            weights = checkpoint.digest(self.start[2].state)
            built = self._place(self.dense, [self.start[2].config.model_dump(), weights])
            if not built.path.exists():
                checkpoint.save(built.path, self.start[2])
            return built
        parts = [self.config.model.model_dump(), self.config.train.model_dump(), self.config.seed]
        built = self._place(Variant(()), parts + ([self.initial.key] if self.initial else []))
        if self._missing(built):
            self._train(built, self.config.train)
        self._show(built, "best_vit_model.pth")
        return built

    def _show(self, built: Built, name: str) -> None:
        """Copies a checkpoint to where a person looks for it."""
        if self.world.rank == 0:
            newest, content = self.out / name, built.path.read_bytes()
            if not newest.exists() or newest.read_bytes() != content:
                files.write(newest, content)

    def _train(self, built: Built, settings: TrainConfig, trainer: Callable[..., Trainer] = Trainer) -> None:
        model = initial.new_model(self.config.model, self.config.seed, self.initial, self.data.classes)
        what = "pretraining vit" if built.pretrained else "training vit"
        length = f"{settings.steps} steps" if settings.steps else f"{settings.epochs} epochs"
        many = f"{self.world.size} x " if self.world.size > 1 else ""
        self.say(f"{what} on {self.data.name}: {length} on {many}{self.device.type}")
        self.state, started = StateFile(built.path.with_name("state.pt")), time.perf_counter()
        with self._curves(built) as log:
            history = fit(
                model,
                self.data,
                settings,
                device=self.device,
                seed=self.config.seed,
                title=what,
                snapshot=self.state,
                log=log,
                world=self.world,
                trainer=trainer,
            )
        self._keep(model, built, history, self.state, started)

    def make(self, wanted: Variant) -> Built:
        """A variant, stage by stage; each begins with what the one before made."""
        built = baseline = self.baseline()
        for stage in wanted.stages:
            parts = [baseline.key, stage.describe(), self.config.calibration_images, *teacher.keys(stage.methods)]
            if any(method.from_scratch for method in stage.methods):
                parts.append(self.config.train.model_dump())
            if any(method.tuned for method in stage.methods):
                parts += [self.config.finetune.model_dump(), self.config.seed]
            target = self._place(stage, parts)
            if self._missing(target):
                self._add(built, target, baseline)
            built = target
        return built

    def artifact(self, built: Built, runtime: Runtime) -> Path:
        """The file that `runtime` runs, made if it is missing."""
        path = built.path.with_name(built.variant.name + runtime.suffix)
        if not path.exists():
            model, variant_, content = loading.restore(built.path)
            self.say(f"building {path.name} for {runtime.name}")
            runtime.build(model, variant_, content, path, parity_images(self.data), self.calibration)
        return path

    def _add(self, start: Built, target: Built, baseline: Built) -> None:
        model, done, _ = self.world.share(lambda: loading.restore(start.path))
        new = target.variant.methods[len(done.methods) :]
        what = "training" if any(method.tuned for method in new) else "calibrating"
        self.say(f"{what} {target.variant.name}")
        anew = any(method.from_scratch for method in new)
        torch.manual_seed(self.config.seed)  # of new weights, where there are any
        self.state, started = StateFile(target.path.with_name("state.pt")), time.perf_counter()
        with self._curves(target) as log:
            model, history = finetuning.apply(
                model,
                done.methods,
                new,
                self.data,
                teacher=self.world.share(lambda: teacher.of(target.variant.methods, baseline.path, self.data)),
                training=self.config.train if anew else self.config.finetune,
                calibration=self.calibration,
                device=self.device,
                seed=self.config.seed + (not anew),
                title=f"{what} {target.variant.name}",
                snapshot=self.state,
                log=log,
                world=self.world,
            )
        self._keep(model, target, history, self.state, started)

    def kept(self) -> str:
        """What there is of the training that runs, for the person who has to start it again."""
        step = self.state.step() if self.state else None
        if self.state is None or step is None:
            return "run the same command again: it goes on from what was kept"
        return f"its state after step {step:,} is kept in {self.state.path}: run the same command to go on"

    def _missing(self, built: Built) -> bool:
        """Whether a model has to be made. Where one is made anew, what was begun or finished before is discarded."""

        def missing() -> bool:
            if self.anew is not None:
                StateFile(built.path.with_name("state.pt")).remove()
            if built.variant == self.anew:
                shutil.rmtree(built.path.parent, ignore_errors=True)
                return True
            return not built.path.exists()

        return self.world.share(missing)

    def _curves(self, built: Built) -> Curves:
        folder = self.out / "tensorboard" / built.path.parent.name
        path = built.path.with_name("training.jsonl")
        return Curves(built.variant.name, path, self.say, folder if self.tensorboard else None)

    def _keep(
        self, model: Classifier, built: Built, history: list[dict[str, float]], state: StateFile, started: float
    ) -> None:
        """The checkpoint last: where it stands, the work is whole."""
        if self.world.rank:
            return
        if history:
            curves.write(built.path.with_name("training.jsonl"), history)
            seen = sum(entry["images_per_s"] * entry["seconds"] for entry in history)
            speed = seen / sum(entry["seconds"] for entry in history)
            self.say(f"  {built.variant.name} done in {time.perf_counter() - started:.0f} s, {speed:,.0f} images/s")
        methods = built.variant.methods
        seen = describe_calibration(self.data, self.config.calibration_images) if methods else None
        packed = loading.pack(model, methods, self.data, model.config, calibration=seen)
        checkpoint.save(built.path, replace(packed, dataset=self.config.data, pretrained=built.pretrained))
        state.remove()

    def _place(self, which: Variant, parts: list[Any]) -> Built:
        key = files.key(__version__, self.data.name, self.data.fingerprint, which.name, *parts)
        folder = self.out / "models" / f"{which.name}-{key}"
        return Built(which, folder / f"best_{which.name}_model.pth", key)
