"""The one place where weights are read and written.

A checkpoint is a dictionary of tensors and plain values in torch's zip format. It is read with
`weights_only=True`: a file that would run code is refused.
"""

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from baselines.errors import InputError
from baselines.vit import ViTConfig
from compress import files

FORMAT = "compress-checkpoint-1"


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with all that is needed to rebuild it and to feed it."""

    config: ViTConfig
    methods: tuple[dict[str, Any], ...]  # in order, each {"name": ..., hyper-parameters}
    state: dict[str, Tensor]
    dataset: str  # as --data takes it
    classes: tuple[str, ...]
    mean: tuple[float, ...]  # per channel, of pixels in [0, 1]
    std: tuple[float, ...]
    converted: bool = False  # whether the methods' `convert` has been applied: a model that ships


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Writes the file as a whole or not at all.

    Raises:
        InputError: the place cannot be written.
    """
    _write(
        path,
        {
            "format": FORMAT,
            "config": checkpoint.config.model_dump(),
            "methods": list(checkpoint.methods),
            "state": {name: value.detach().cpu().contiguous() for name, value in checkpoint.state.items()},
            "dataset": checkpoint.dataset,
            "classes": list(checkpoint.classes),
            "mean": list(checkpoint.mean),
            "std": list(checkpoint.std),
            "converted": checkpoint.converted,
        },
    )


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint onto the CPU.

    Raises:
        InputError: missing, cut short, not one of ours, or holding more than weights.
    """
    content = _read(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not a checkpoint that compress wrote; make one with: compress train")
    try:
        return Checkpoint(
            config=ViTConfig(**content["config"]),
            methods=tuple(content["methods"]),
            state=dict(content["state"]),
            dataset=str(content["dataset"]),
            classes=tuple(content["classes"]),
            mean=tuple(content["mean"]),
            std=tuple(content["std"]),
            converted=bool(content["converted"]),
        )
    except ValidationError as error:
        raise files.explain(error, f"{path} (config)") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is a damaged compress checkpoint ({error!r}); train or fetch it again") from error


@dataclass(frozen=True)
class StateFile:
    """Where an interrupted training is kept; the `Snapshot` of `baselines.train`."""

    path: Path

    def load(self) -> dict[str, Any] | None:
        return _read(self.path) if self.path.exists() else None

    def save(self, state: dict[str, Any]) -> None:
        _write(self.path, state)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _write(path: Path, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    files.write(path, buffer.getvalue())


def _read(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give the path of a checkpoint, such as best_vit_model.pth")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _is_zip(path) or path.read_bytes()[:1] == b"\x80":
            raise InputError(
                f"{path} holds more than weights and could run code when loaded; it is refused, "
                "save it again as a plain state dict"
            ) from error
        raise InputError(f"{path} is not a checkpoint, or is damaged; train or fetch it again") from error
    except Exception as error:  # torch raises many kinds for damaged files
        raise InputError(f"{path} is cut short or damaged; train or fetch it again") from error


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"
