"""Weights that a training begins with: a baseline of ours, or one that was pretrained without labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from baselines import transfer
from baselines.data import Data
from baselines.errors import InputError
from baselines.vit import VisionTransformer, ViTConfig
from compress import files
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import Checkpoint
from compress.importers import Hints
from compress.importers.normalization import DATA


@dataclass(frozen=True)
class Initial:
    """A checkpoint that was given as `--init`."""

    path: str
    content: Checkpoint

    @cached_property
    def key(self) -> str:
        """Changes when weights, or what is taken from them, do."""
        weights = checkpoint.hash_state(self.content.state)
        return files.key(self.content.config.model_dump(), self.content.classes, self.content.pretrained, weights)

    def normalize(self, data: Data) -> Data:
        """The data set as the weights know images: with the mean and deviation of what they were trained on.

        Where their file does not say how that was, the data set's own are as good: the training goes on.
        """
        return data.with_normalization(self.content.mean, self.content.std) if self.content.mean else data


def read_initial(path: str, hints: Hints | None = None) -> Initial:
    """Raises InputError where the file cannot be read or is no baseline."""
    content = checkpoint.load(Path(path), hints)
    if content.methods:
        name = "_".join(str(entry.get("name")) for entry in content.methods)
        raise InputError(f"--init {path} is already {name!r}; give the checkpoint of a baseline")
    return Initial(path, content)


def resolve_initial(
    path: str | None, model: ViTConfig, start: Path | None, hints: Hints | None = None
) -> Initial | None:
    """What `--init` names, where it can begin a training of `model`.

    Args:
        start: the `--checkpoint` that stands in for a training.

    Raises:
        InputError: it cannot.
    """
    if path is None:
        return None
    if start is not None:
        raise InputError(f"--init {path} begins a training and --checkpoint {start} replaces it; give only one of them")
    initial = read_initial(path, hints)
    if hints is not None and hints.normalize == DATA:
        initial = replace(initial, content=replace(initial.content, mean=(), std=()))
    transfer.check(initial.content.geometry, model, f"--init {path}")
    return initial


def make_model(config: ViTConfig, seed: int, initial: Initial | None, classes: Sequence[str]) -> VisionTransformer:
    """A baseline as its training begins: new, or with the weights of `initial`.

    Its head is new where the classes are others, or no labels were seen yet.

    Raises:
        InputError: the weights do not fit.
    """
    torch.manual_seed(seed)
    model = VisionTransformer(config)
    if initial is not None:
        content = initial.content
        new_head = content.pretrained or content.classes != tuple(classes)
        transfer.start_from(model, content.state, content.geometry, new_head=new_head, source=f"--init {initial.path}")
    return model
