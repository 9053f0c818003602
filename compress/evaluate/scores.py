"""The classes that artifacts gave to test images, kept where an interruption does not lose them."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress import files
from compress.evaluate.candidate import Candidate
from compress.evaluate.measurement import Measurement


@dataclass(frozen=True)
class Scores:
    """A file for each candidate, named by all that its answers depend on.

    Args:
        folder: None keeps nothing.
        parts: what else they depend on: images, device, versions.
    """

    folder: Path | None
    parts: tuple[object, ...]

    def restore(self, made: Measurement) -> None:
        """Takes over the answers of an earlier run, where there are any."""
        path = self._locate(made.candidate)
        if path is None or not path.is_file():
            return
        try:
            with np.load(path, allow_pickle=False) as kept:
                made.predicted_k, made.logits_sC = kept["predicted_k"], kept["logits_sC"]
        except (OSError, ValueError, KeyError):  # of no use: they are computed again
            made.predicted_k, made.logits_sC = np.empty(0, np.int64), None

    def save(self, made: Measurement) -> None:
        path = self._locate(made.candidate)
        if path is None or made.failed is not None or made.logits_sC is None or not len(made.predicted_k):
            return
        content = io.BytesIO()
        np.savez(content, predicted_k=made.predicted_k, logits_sC=made.logits_sC)
        files.write(path, content.getvalue())

    def _locate(self, candidate: Candidate) -> Path | None:
        if self.folder is None:
            return None
        return self.folder / f"scores_{files.key(candidate.key, candidate.name, *self.parts)}.npz"
