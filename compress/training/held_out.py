"""Training images that no training of a checkpoint learned from, as the settings beside it (config.toml) say."""

import tomllib
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from baselines.data import Data
from baselines.recipe import TrainConfig
from baselines.subset import Subset
from baselines.validation import hold_out
from compress import settings
from compress.checkpoints.checkpoint import Checkpoint
from compress.config import BenchConfig
from compress.variant import Variant


def find_held_out(path: Path, content: Checkpoint, which: Variant, data: Data, subset: Subset | None) -> Tensor | None:
    """Indices of training images from which no training of this checkpoint learned; None where nobody knows of any.

    Args:
        path: of the checkpoint.
        subset: that `data` was cut to.
    """
    trainings = _read_trainings(path, content, which, data.name, subset)
    if not trainings:
        return None
    kept = torch.ones(len(data.train.labels), dtype=torch.bool)
    for each in trainings:
        kept[hold_out(data.train, each.validation)[0]] = False
    return kept.nonzero().flatten()


def hold_out_again(config: BenchConfig, path: Path, content: Checkpoint, which: Variant) -> BenchConfig:
    """The settings, whose fine-tuning holds out what the training of a checkpoint did, unless they say a share.

    Other images would be known to the model, which then looks better before fine-tuning than after it.
    """
    trainings = _read_trainings(path, content, which, config.data, config.subset)
    if not trainings or "validation" in config.finetune.model_fields_set:
        return config
    finetune = config.finetune.model_copy(update={"validation": trainings[0].validation})
    return config.model_copy(update={"finetune": finetune})


def _read_trainings(
    path: Path, content: Checkpoint, which: Variant, data: str, subset: Subset | None
) -> list[TrainConfig]:
    """Of each training behind a checkpoint; none where nobody knows, or one of them held nothing out."""
    record = path.parent / settings.FILE
    if content.origin is not None or content.dataset != data or not record.is_file():
        return []
    try:
        trained = BenchConfig(**tomllib.loads(record.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError):
        return []
    parts = [trained.train, *([trained.finetune] if any(method.tuned for method in which.methods) else [])]
    known = trained.subset == subset and trained.data == data and all(part.validation for part in parts)
    return parts if known else []
