"""What comes back to the user's program: measured rows, and files that are ready to be called."""

import contextlib
import html
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import reports
from baselines.errors import InputError
from compress import runtimes
from compress.evaluate.measurement import run_batches
from compress.importers import Hints
from compress.measure.environment import available_cpus
from compress.runtimes.client import Worker
from compress.runtimes.graph_files import fixed_batch
from compress.verbs.predict import choose_device, choose_runtime, open_model
from reports import Row

if TYPE_CHECKING:
    import pandas as pd

BATCH = 64


class Artifact:
    """A checkpoint, ONNX or OpenVINO file in an engine, in a process of its own. Call it with images.

    Attributes:
        path, runtime, device, threads: what runs where.
        classes: names, in the order of the logits.
        image_size: height and width.
        mean, std: per channel, of pixels in [0, 1], by which images are to be normalized.
    """

    def __init__(self, path: Path, runtime: str = "auto", device: str = "auto", threads: int | None = None):
        self.path, engine = path, choose_runtime(path, runtime)
        self.runtime, self.device = engine.name, choose_device(engine, device)
        self.threads = threads or available_cpus()
        with contextlib.ExitStack() as stack:
            file, feed = stack.enter_context(open_model(path, Hints(), warnings.warn))
            self.classes, self.image_size, self.mean, self.std = feed.classes, feed.image_size, feed.mean, feed.std
            self._feed, self._batch = feed, fixed_batch(file)
            self._worker = Worker.start(engine.name, file, self.device, self.threads, self._batch)
            stack.callback(self._worker.close)
            self._worker.ready()
            self.close = weakref.finalize(self, stack.pop_all().close)

    def __call__(self, images: Any) -> np.ndarray:
        """Logits (n, classes) float32.

        Args:
            images: normalized, (n, channels, height, width): an array, or a tensor.
        """
        values = np.ascontiguousarray(np.asarray(images), np.float32)
        wanted = (len(self.mean), *self.image_size)
        if values.ndim != 4 or values.shape[1:] != wanted or not len(values):
            raise InputError(f"{self.path.name} takes images (n, {', '.join(map(str, wanted))}), not {values.shape}")
        return run_batches(self._worker, values, self._batch or min(BATCH, len(values)))

    def read(self, paths: Sequence[str | Path]) -> np.ndarray:
        """Normalized images (n, channels, height, width) of files, as they were in training."""
        return self._feed.batch([Path(path) for path in paths])

    def __repr__(self) -> str:
        return f"{self.path.name} in {self.runtime} on {self.device}, {len(self.classes)} classes"

    def __enter__(self) -> "Artifact":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, repr=False)
class Result:
    """What was measured, and what was kept of it.

    Attributes:
        rows: of every candidate; see `frame`.
        folder: of the run: rows, reports, models.
        path: the file that is kept; None where none is.
        runtime: the engine that it was kept for.
    """

    rows: list[Row]
    folder: Path
    path: Path | None = None
    runtime: str = "auto"
    holds: tempfile.TemporaryDirectory[str] | None = field(default=None, compare=False)  # `folder`, if nobody named one

    @cached_property
    def frame(self) -> "pd.DataFrame":
        """A line for each row, unrounded, in base units; the columns are those of rows.csv."""
        return reports.make_frame(self.rows)

    @property
    def kept(self) -> Row | None:
        """The row of what is kept; None where nothing was to be chosen."""
        return next((row for row in self.rows if row.chosen), None)

    @cached_property
    def model(self) -> Artifact:
        """The file that is kept, ready to be called in the engine that it was kept for."""
        return Artifact(self._file, self.runtime)

    def save(self, path: str | Path) -> Path:
        """Copies the file that is kept, and the files beside it that belong to it.

        Args:
            path: a folder, or a name; the suffix is added where it has none of an engine's.
        """
        target, source = Path(path), self._file
        if target.is_dir():
            target = target / source.name
        if not any(each.opens_file(target) for each in runtimes.describe_all()):
            target = target.with_name(target.name + source.suffix)
        if target.suffix != source.suffix:
            raise InputError(f"{target} is to hold {source.name}; let its name end in {source.suffix}")
        target.parent.mkdir(parents=True, exist_ok=True)
        for each in runtimes.list_files(source):
            shutil.copyfile(each, target.with_name(target.stem + each.name.removeprefix(source.stem)))
        return target

    @property
    def _file(self) -> Path:
        if self.path is None:
            why = "no candidate kept the accuracy" if self.rows else "nothing was to be kept"
            raise InputError(f"there is no file: {why}; see frame")
        return self.path

    def __repr__(self) -> str:
        said = self.kept.chosen if self.kept else None
        return "\n".join(filter(None, [said, reports.markdown_table(self.rows) if self.rows else str(self.path)]))

    def _repr_html_(self) -> str:
        said = html.escape(self.kept.chosen or "") if self.kept else ""
        return f"<p>{said}</p>{reports.html_table(self.rows)}"
