"""A baseline of any geometry that learns from a teacher of any other, beside the labels.

OUT/teacher.pth                              what it learns from, where that is a checkpoint of another library
OUT/best_vit_distill_model.pth               copy of the one that was made last
OUT/models/vit_distill-<hash>/best_vit_distill_model.pth, teacher.json, training.jsonl, state.pt while training

It ends as a plain baseline: what it learned from leaves no trace in its structure.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from baselines.guided import Guided
from baselines.vit import VisionTransformer
from compress import files, loading
from compress.checkpoints import checkpoint
from compress.config import BenchConfig
from compress.importers import Hints
from compress.methods import Method
from compress.training import finetuning, teacher
from compress.training.data import load_data, settle
from compress.training.workshop import Built, Workshop
from compress.variant import Variant

NAME = "vit_distill"
FILE = f"best_{NAME}_model.pth"
TEACHER = "teacher.pth"


def adopt(path: Path, hints: Hints, config: BenchConfig, out: Path, say: Callable[[str], Any]) -> Path:
    """The teacher as a checkpoint of ours: itself, or what is made of a file of another library and kept in `out`."""
    model, _, content = loading.restore_vit(path, hints)
    if content.origin is None:
        return path
    size, channels = content.config.image_size, content.config.channels
    content, _ = settle(path, model, content, load_data(config.data, size, channels, out, config.subset), hints, say)
    checkpoint.save(out / TEACHER, content)
    return out / TEACHER


class Distillation(Workshop):
    """A workshop whose baseline learns as `method` says; the other arguments are those of `Workshop`."""

    def __init__(self, method: Method, config: BenchConfig, out: Path, device: torch.device, say: Any, **further: Any):
        self.method = method
        tables = {**config.methods, method.name: method.model_dump()}
        super().__init__(config.model_copy(update={"methods": tables}), out, device, say, **further)

    def baseline(self) -> Built:
        """The student: found or trained, from scratch and with the images that `compress train` takes."""
        settings = self.method.model_dump(exclude={"teacher"})
        (file,), (weights,) = teacher.names([self.method]), teacher.keys([self.method])
        parts = [NAME, self.config.model.model_dump(), self.config.train.model_dump(), self.config.seed]
        parts += [settings, weights]
        key = self._place(Variant(()), parts + ([self.initial.key] if self.initial else [])).key
        built = Built(Variant(()), self.out / "models" / f"{NAME}-{key}" / FILE, key)
        if self._missing(built):
            source = loading.restore(file)[1].name
            self.say(f"teacher {file}: {source}")
            if self.world.rank == 0:
                record = {"teacher": str(file), "sha256": weights, "variant": source, **settings}
                files.write(built.path.with_name("teacher.json"), json.dumps(record, indent=2) + "\n")
            self._train(built, self.config.train, self._trainer)
        self._show(built, FILE)
        return built

    def _trainer(
        self, model: VisionTransformer, data: Any, config: Any, device: torch.device, seed: int, *others: Any
    ) -> Guided:
        """The `Trainer` of a student; `others` are terms and teacher, of which a baseline has none, and the rest."""
        method, (file,) = self.method, teacher.names([self.method])
        master = self.world.share(lambda: teacher.read(file, self.data)).to(device).eval()
        start = finetuning.guided([method], model, master)
        return start(model, data, config, device, seed, [method.loss_terms], master, *others[2:])
