"""One trial: a dense model is trained and scored on the images that were held out."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from pydantic import ValidationError

from baselines import macs
from baselines.data import Data
from baselines.train import fit
from baselines.validation import hold_out
from baselines.vit import VisionTransformer
from compress import __version__, files
from compress.checkpoints.checkpoint import StateFile
from compress.config import BenchConfig
from compress.measure.statistics import wilson
from compress.runtimes.server import out_of_memory
from compress.sweep.queue import Taken
from compress.sweep.settings import Sweep
from compress.training import curves
from compress.training.curves import Curves, Record
from compress.training.data import load_data


@dataclass(frozen=True)
class Alive(StateFile):
    """A state file that gives a sign of life whenever it is written."""

    sign: Callable[[], None]

    def save(self, state: dict[str, Any]) -> None:
        super().save(state)
        self.sign()


class Runner:
    """Runs the trials of a sweep in one run directory, each under a lock, and keeps what came of them."""

    def __init__(self, sweep: Sweep, out: Path, device: torch.device, say: Callable[[str], None]):
        self.sweep, self.out, self.device, self.say = sweep, out, device, say
        self.loaded: dict[str, Data] = {}

    def run(self, taken: Taken, place: str) -> str:
        """Does a trial and tells the queue; returns what came of it, in words."""
        try:
            config = self.sweep.at(taken.point)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ").partition(";")[0]
            taken.impossible(reason)
            return f"impossible: {reason}"
        data = self.data(config)
        config = config.model_copy(update={"model": config.model.model_copy(update={"classes": len(data.classes)})})
        parts = [config.model.model_dump(), config.train.model_dump(), config.seed]
        key = files.key(__version__, data.name, data.fingerprint, *parts)
        with self._lock(key):
            taken.begin(place, key)
            try:
                found = self._result(config, data, key, taken)
            except Exception as error:
                if not (isinstance(error, FloatingPointError) or out_of_memory(error)):
                    raise
                reason = str(error) if isinstance(error, FloatingPointError) else "there was not enough memory"
                StateFile(self.out / "trials" / key / "state.pt").remove()
                taken.failed(reason)
                return f"failed: {reason}"
            taken.done(found)
        return (
            f"{found['top1']:.1%} [{100 * found['top1_low']:.1f}, {100 * found['top1_high']:.1f}] of "
            f"{found['n_images']} validation images, {found['macs_per_image'] / 1e6:.3g} MMACs, "
            f"trained in {found['train_s']:.0f} s, {found['images_per_s']:,.0f} images/s"
        )

    def data(self, config: BenchConfig) -> Data:
        """The images of a trial, read once for each size."""
        model, name = config.model, files.key(config.model.image_size, config.model.channels)
        if name not in self.loaded:
            size, channels = model.image_size, model.channels
            say = (lambda _: None) if self.loaded else self.say  # once
            skip = config.skip_unreadable
            self.loaded[name] = load_data(
                config.data, size, channels, self.out, config.subset, say, skip_unreadable=skip
            )
        return self.loaded[name]

    def held(self, key: str) -> bool:
        """Whether a process works on the trial of that key in this run directory."""
        try:
            with self._lock(key, timeout=0):
                return False
        except Timeout:
            return True

    def _lock(self, key: str, timeout: float = -1) -> FileLock:
        """Falls with its process, however that ends."""
        folder = files.writable_folder(self.out / "trials" / key)
        return FileLock(folder / ".lock", timeout=timeout)

    def _result(self, config: BenchConfig, data: Data, key: str, taken: Taken) -> dict[str, Any]:
        """What a trial gives, measured now or before."""
        folder = self.out / "trials" / key
        path, state = folder / "result.json", Alive(folder / "state.pt", taken.alive)
        if path.exists():
            return json.loads(path.read_text())
        torch.manual_seed(config.seed)
        history = fit(
            VisionTransformer(config.model),
            data,
            config.train,
            device=self.device,
            seed=config.seed,
            title=f"trial {taken.number}",
            snapshot=state,
            log=Curves(f"trial {taken.number}", folder / "training.jsonl", self.say),
        )
        curves.write(folder / "training.jsonl", history)
        found = summary(history, config, len(hold_out(data.train, config.train.validation)[1]))
        files.write(path, json.dumps(found))
        state.remove()
        return found


def summary(history: list[Record], config: BenchConfig, n_images: int) -> dict[str, Any]:
    """The figures of a trial whose training is over: accuracy is that of the epoch whose weights are kept.

    Args:
        n_images: validation images.
    """
    chosen = max(reversed(history), key=lambda record: record[f"validation_{config.train.chosen_by}"])
    top1 = chosen["validation_top1"]
    low, high = wilson(round(top1 * n_images), n_images)
    seconds = sum(record["seconds"] for record in history)
    return {
        "top1": top1,
        "top1_low": low,
        "top1_high": high,
        "n_images": n_images,
        "macs_per_image": macs.dense_macs(config.model),
        "params": macs.params(config.model),
        "train_s": seconds,
        "images_per_s": sum(record["images_per_s"] * record["seconds"] for record in history) / seconds,
    }
