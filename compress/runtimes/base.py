"""What an engine is: a file on disk -> something that can be called. Needs no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from baselines.vit import VisionTransformer
    from compress.checkpoint import Checkpoint
    from compress.variant import Variant


class Session(ABC):
    """A loaded artifact. Inputs are moved to the device by `put`, outside what is timed."""

    device_name: str

    @abstractmethod
    def put(self, images: np.ndarray) -> Any:
        """Normalised images (B, C, height, width) float32 -> the engine's own input."""

    @abstractmethod
    def run(self, images: Any) -> Any:
        """One forward pass, finished when it returns -> logits (B, classes), the engine's own array."""

    @abstractmethod
    def get(self, logits: Any) -> np.ndarray:
        """Logits of `run` as an array on the host."""

    def peak_memory_bytes(self) -> int | None:
        """Most memory allocated on an accelerator so far; None where the process's own memory is what counts."""
        return None


class Runtime(ABC):
    name: str
    suffix: str  # of its artifacts
    simulates_integers: bool  # whether int8 variants run in float here
    group_size: int | None  # images padded to a common length in ragged attention; None for the whole batch

    @abstractmethod
    def devices(self) -> tuple[str, ...]:
        """Devices this engine can use here."""

    @abstractmethod
    def build(self, model: VisionTransformer, which: Variant, content: Checkpoint, path: Path, images: Tensor) -> None:
        """Writes the artifact of a trained, not yet converted model.

        Args:
            images: normalised real images for checks, (n, C, height, width), n >= 10.
        """

    @abstractmethod
    def load(self, path: Path, device: str, threads: int) -> Session:
        """Makes an artifact ready to be called."""

    @abstractmethod
    def inspect(self, path: Path) -> tuple[str, tuple[str, ...]]:
        """In which numbers the kernels work (fp32, bf16, int8, int8-simulated), and what a reader should know."""
