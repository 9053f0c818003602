"""What a person asked of `compress search`."""

from dataclasses import dataclass, field
from pathlib import Path

from baselines.data import Data
from compress import config as config_
from compress.checkpoints.checkpoint import Checkpoint
from compress.config import BenchConfig
from compress.importers import Hints
from compress.importers.timm_registry import place_files
from compress.verbs.search.wishes import Wishes


@dataclass(frozen=True, kw_only=True)
class Request:
    path: Path  # of the checkpoint
    wishes: Wishes
    budget_s: float = 3600.0  # from the start to the end, the last measurement included
    trials: int | None = None  # at most, those of earlier runs included; None: as many as there is time for
    methods: tuple[str, ...] = ()  # that take part; empty: all that declare ranges
    runtimes: tuple[str, ...] = ()  # empty: all that work here and do not compile anew in every process
    epochs: int = 0  # of fine-tuning, for what could still win
    held_out: int = 2000  # training images that choose, at most
    data: str | None = None
    images: Data | None = None  # the data set itself, instead of its name
    config: Path | None = None
    batch_size: int = 1
    threads: int = 1
    device: str = "cpu"
    seconds: float = 10.0  # of latency measurement, at most, each time
    seed: int | None = None
    storage: str | None = None  # database that processes share; None: a file in `folder`
    out: Path | None = None
    hints: Hints = field(default_factory=Hints)
    force: bool = False  # replace files that are better, or of unknown origin
    skip_unreadable: bool = False  # leave out images of folders that cannot be read

    @property
    def folder(self) -> Path:
        """The run directory."""
        place = place_files(self.path)
        return self.out or place.with_name(f"{place.stem}-search")

    def name_target(self, suffix: str) -> Path:
        """A file that is written of the winner."""
        return self.folder / f"{place_files(self.path).stem}.best{suffix}"


def read_settings(request: Request, content: Checkpoint) -> BenchConfig:
    """Those of the file, on the data of the checkpoint unless another is named."""
    name = request.images.name if request.images else request.data
    settings = config_.read_for_checkpoint(
        request.path, content.dataset, request.config, name, request.seed, content.config
    )
    skip = request.skip_unreadable or settings.skip_unreadable
    settings = settings.model_copy(update={"skip_unreadable": skip})
    return config_.shorten_finetuning(settings, request.epochs) if request.epochs else settings
