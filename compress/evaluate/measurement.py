"""What is known of a candidate on one device, and how images go through its process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from baselines.errors import InputError
from compress.evaluate.candidate import Candidate
from compress.measure.latency import Timing
from compress.runtimes import Inspection
from compress.runtimes.client import OutOfMemory, Worker


@dataclass(frozen=True)
class ColdStart:
    """What a fresh process needs."""

    device_name: str
    load_s: float
    first_call_s: float | None  # None: not cold at this batch size
    peak_memory_bytes: int | None


@dataclass
class Measurement:
    """A candidate on one device, and what is known of it so far.

    Legend: k images scored, s of them in the sample, C classes.
    """

    candidate: Candidate
    path: Path
    inspection: Inspection
    starts: dict[int, ColdStart] = field(default_factory=dict)  # by batch size
    predicted_k: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # class of the first k images
    logits_sC: np.ndarray | None = None
    timing: Timing = field(default_factory=Timing)
    extremes: dict[str, Timing] = field(default_factory=dict)  # batch 1: "easy" and "hard" images
    failed: str | None = None
    eliminated: str | None = None

    @property
    def active(self) -> bool:
        return self.failed is None and self.eliminated is None

    def recover(self) -> None:
        """What failed while it was timed takes part again, at another batch size; its process begins anew."""
        if self.timing.failed is not None:
            self.failed, self.timing = None, Timing()


def describe_failure(error: BaseException) -> str:
    """In one line, as a row has it; what this program did not foresee is named by its type."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        said
        if isinstance(error, RuntimeError | ValueError | InputError | FloatingPointError)
        else f"{type(error).__name__}: {said}"
    )


def has_fixed_batch(candidate: Candidate) -> bool:
    """Whether the engine's graph is compiled for the batch size that is timed."""
    return candidate.start is None and candidate.runtime.batch_shapes[0] == "fixed"


def run_batches(worker: Worker, images: np.ndarray, size: int) -> np.ndarray:
    """Logits (B, C) of images (B, ...), in batches of exactly `size`, smaller where memory does not hold them.

    The last batch is filled up with copies of its last image.
    """
    found = []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        try:
            found.append(worker.logits(pad_batch(part, size))[: len(part)])
        except OutOfMemory:
            if size == 1:
                raise
            found.append(run_batches(worker, part, size // 2))
    return np.concatenate(found)


def pad_batch(images: np.ndarray, size: int) -> np.ndarray:
    """Images with copies of the last one, so that there are `size`."""
    return np.pad(images, ((0, size - len(images)), *[(0, 0)] * (images.ndim - 1)), "edge")


def iterate_pairs(measurements: Sequence[Measurement]) -> Iterator[tuple[str, str]]:
    """Each artifact with the dense model in its runtime; with that in torch where this is it, or there is none."""
    dense = {each.candidate.runtime.name: each.candidate.name for each in measurements if each.candidate.dense}
    for each in measurements:
        own = "torch" if each.candidate.dense else each.candidate.runtime.name
        reference = dense.get(own, dense.get("torch"))
        if reference is not None and reference != each.candidate.name:
            yield reference, each.candidate.name
