"""What a person asked of `compress quantize`."""

from dataclasses import dataclass, field
from pathlib import Path

from baselines.data import Data
from compress import config
from compress.checkpoints.checkpoint import Checkpoint
from compress.config import BenchConfig
from compress.importers import Hints
from compress.importers.timm_registry import place_files


@dataclass(frozen=True, kw_only=True)
class Request:
    path: Path  # of the checkpoint
    mode: str | None = None  # None: static and dynamic
    runtimes: tuple[str, ...] = ()  # empty: all that work here
    data: str | None = None
    images: Data | None = None  # the data set itself, instead of its name
    config: Path | None = None
    calibration_images: int = 256
    test_images: int | None = None  # scored; None: all
    max_drop: float | None = None  # points of top-1
    skip: tuple[str, ...] = ()
    epochs: int = 1
    batch_size: int = 1
    threads: int = 1
    device: str = "cpu"
    seconds: float = 20.0  # of latency measurement, at most
    seed: int | None = None
    exhaustive: bool = False
    sensitivity: bool = False
    calibration_study: bool = False
    resume: bool = True
    fixed: bool = False  # write the file for this batch size alone
    out: Path | None = None
    hints: Hints = field(default_factory=Hints)
    dry_run: bool = False  # say what would be done
    force: bool = False  # replace files that are better, or of unknown origin
    skip_unreadable: bool = False  # leave out images of folders that cannot be read

    @property
    def stem(self) -> Path:
        """What the names of the files begin with that are written."""
        place = place_files(self.path)
        return (self.out / place.stem) if self.out else place.with_suffix("")

    @property
    def folder(self) -> Path:
        """Where the rows go."""
        return self.out or self.stem.with_name(f"{self.stem.name}-quantize")


def read_settings(request: Request, content: Checkpoint) -> BenchConfig:
    """Those of the file, on the data of the checkpoint unless another is named."""
    name = request.images.name if request.images else request.data
    settings = config.read_for_checkpoint(
        request.path, content.dataset, request.config, name, request.seed, content.config
    )
    skip = request.skip_unreadable or settings.skip_unreadable
    return config.shorten_finetuning(settings.model_copy(update={"skip_unreadable": skip}), request.epochs)
