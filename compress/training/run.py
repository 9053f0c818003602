"""Everything that a training of one configuration on one data set needs, checked before the first step."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.classifier import Classifier, ImageConfig
from baselines.data import Data
from baselines.distributed import ALONE, World
from baselines.errors import InputError
from baselines.subset import manifest
from baselines.vit import ViTConfig
from compress import files, loading
from compress.checkpoints import initial
from compress.checkpoints.checkpoint import Checkpoint, StateFile
from compress.checkpoints.initial import Initial
from compress.config import BenchConfig
from compress.importers import Hints
from compress.training import curves, teacher
from compress.training.data import adapt_to_data, load_data, sample_images, sample_parity_images
from compress.training.held_out import hold_out_again
from compress.training.store import ArtifactStore
from compress.variant import Variant, baseline_name


@dataclass(frozen=True)
class Run:
    """One configuration on one data set; made by `open_run`."""

    config: BenchConfig  # its model has as many classes as the data
    data: Data  # normalized as the baseline knows images
    geometry: ImageConfig  # of the baseline
    store: ArtifactStore
    device: torch.device  # where training happens
    say: Callable[[str], Any]  # takes lines for the person at the terminal
    start: tuple[Classifier, Variant, Checkpoint] | None = None  # the baseline, where none is trained
    start_learns: bool = False  # whether the baseline's training begins with `start` instead
    initial: Initial | None = None  # weights that the training of the baseline begins with
    tensorboard: bool = False  # whether trainings are written as TensorBoard reads them
    restart: Variant | None = None  # what is trained from nothing; what was begun or finished of it is discarded
    began: Callable[[StateFile], Any] = lambda _: None  # is told where the state of a training is kept

    @property
    def world(self) -> World:
        return self.store.world

    @property
    def baseline(self) -> Variant:
        return Variant((), baseline_name(self.geometry))

    @cached_property
    def calibration(self) -> list[Tensor]:
        """Training images, fixed by the data set alone, in batches."""
        return sample_images(self.data, self.config.calibration_images)

    @cached_property
    def sample_parity_images(self) -> Tensor:
        """Training images for the check of an exported graph, (n, C, height, width)."""
        return sample_parity_images(self.data)


def open_run(
    config: BenchConfig,
    out: Path,
    device: torch.device,
    say: Callable[[str], Any],
    start: Path | None = None,
    *,
    hints: Hints | None = None,
    images: Data | None = None,
    tensorboard: bool = False,
    restart: Variant | None = None,
    world: World = ALONE,
    began: Callable[[StateFile], Any] = lambda _: None,
) -> Run:
    """Reads the data and the weights that are there already, and checks that they go together.

    Args:
        out: run directory, writable.
        start: checkpoint to use as the baseline instead of training one.
        hints: what the files of `start` and of the weights that training begins with do not say themselves.
        images: the data set, instead of the one that `config` names.
        world: processes that train together; all do the same.

    Other arguments are the fields of `Run`.

    Raises:
        InputError: a checkpoint, the data set or the configuration cannot be used, or not with one another.
    """
    if tensorboard:
        curves.writer_class()  # whether it is installed is better known now than after loading the data
    hints = hints or Hints()
    source = start or (Path(hints.model) if hints.model else None)
    restored = loading.restore(start, hints) if source else None
    if restored and restored[1].methods:
        raise InputError(f"--checkpoint {start} is already {restored[1].name!r}; give the checkpoint of a baseline")
    if restored and source:
        config = hold_out_again(config, source, restored[2], restored[1])
    begin = initial.resolve_initial(config.init, config.model, source, hints)
    if begin and begin.content.choice:
        say(f"--init {config.init}: {begin.content.choice}")
    geometry: ImageConfig = restored[2].config if restored else config.model

    known = restored[2] if restored else begin.content if begin else None
    data = _load_images(config, geometry, known, out, world, say, images)
    if config.subset and world.rank == 0:
        files.write(out / "manifest.csv", manifest(data, config.train.validation))
    if restored and source:
        model, which, content = restored
        content, data = adapt_to_data(source, model, content, data, hints, say)
        restored = model, which, content
    data = begin.normalize(data) if begin else data
    teacher.check(config.methods, data)
    classes = len(data.classes)
    if "classes" in config.model.model_fields_set and config.model.classes != classes:
        raise InputError(f"[model] classes = {config.model.classes}, but {config.data} has {classes}; remove the key")
    geometry = geometry.model_copy(update={"classes": classes})
    if isinstance(geometry, ViTConfig):
        config = config.model_copy(update={"model": geometry})
    further: dict[str, Any] = {"initial": begin, "tensorboard": tensorboard, "restart": restart, "began": began}
    return Run(config, data, geometry, ArtifactStore(out, world), device, say, restored, **further)


def _load_images(
    config: BenchConfig,
    geometry: ImageConfig,
    known: Checkpoint | None,
    out: Path,
    world: World,
    say: Callable[[str], Any],
    images: Data | None,
) -> Data:
    """The data set, resized as `known` takes images, where the training begins with a checkpoint."""
    size, channels, resizing = geometry.image_size, geometry.channels, known.resizing if known else None
    further: dict[str, Any] = {"resizing": resizing, "skip_unreadable": config.skip_unreadable}
    load = partial(load_data, images or config.data, size, channels, out, config.subset, say, **further)
    return load() if config.data.startswith("folder:") else world.in_turn(load)  # what is fetched, once
