"""What an engine is: a file on disk -> something that can be called. Needs no torch."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from baselines.cpu import cpu_flags

if TYPE_CHECKING:
    from torch import Tensor

    from baselines.classifier import Classifier
    from compress.checkpoints.checkpoint import Checkpoint
    from compress.variant import Variant


@dataclass(frozen=True)
class Inspection:
    """What the kernels of a runtime do with an artifact, as read from the runtime."""

    executed: str  # fp32, bf16, int8, int4, fp8, or int8-simulated and the like
    integer_share: float | None = None  # of the MACs, in integer kernels; None where none were meant to be
    notes: tuple[str, ...] = ()  # what a reader should know


def overflow_notes() -> tuple[str, ...]:
    """A warning where x86 engines add two products of 8 bits in 16, which the largest of them overflow."""
    flags = cpu_flags()
    if "avx2" not in flags or flags & {"avx512_vnni", "avx_vnni", "amx_int8"}:
        return ()
    return ("this processor has no VNNI: sums of int8 products may overflow 16 bits in an engine; compare top-1",)


def peak_resident_bytes() -> int:
    """Most memory this process held. Linux's `ru_maxrss` would begin with the parent's: it survives `exec`."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


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
        """Most memory so far: resident in this process on a CPU, allocated on an accelerator; None if not known."""
        return peak_resident_bytes()


class Runtime(ABC):
    name: str
    suffix: str  # of its artifacts
    numbers: frozenset[str]  # in which its kernels compute products here: fp32, bf16, int8, int4, fp8
    padded: bool = False  # whether ragged attention computes all images of a batch at the length of the longest
    simulates: frozenset[str] = frozenset()  # numbers whose rounding it computes in float, for their accuracy alone
    rests: tuple[str, ...] = ("fp32",)  # in which it may compute what is not in integers, when it is told
    dynamic: tuple[str, ...] = ()  # granularities at which it finds scales of activations itself, worth trying
    quantises: bool = False  # whether it makes integers of a float graph, of whatever architecture
    own_ranges: bool = False  # whether it sets ranges anew, instead of taking those of the model
    fixed_shapes: bool = False  # whether every shape must be compiled: no number of tokens that depends on the image

    @abstractmethod
    def devices(self) -> tuple[str, ...]:
        """Devices this engine can use here."""

    @abstractmethod
    def build(
        self,
        model: Classifier,
        which: Variant,
        content: Checkpoint,
        path: Path,
        images: Tensor,
        calibration: Sequence[Tensor] = (),
    ) -> None:
        """Writes the artifact of a trained, not yet converted model.

        Args:
            images: normalised real images for checks, (n, C, height, width), n >= 10.
            calibration: normalised training images in batches, for a runtime that quantises a graph itself.
        """

    @abstractmethod
    def load(self, path: Path, device: str, threads: int) -> Session:
        """Makes an artifact ready to be called."""

    @abstractmethod
    def inspect(self, path: Path) -> Inspection:
        """What the kernels really do with an artifact."""
