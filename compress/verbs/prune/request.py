"""What a person asked of `compress prune` or `compress halt` -> settings, and the method once for each amount."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from baselines.data import Data
from baselines.errors import InputError
from compress import config as config_
from compress import files, variant
from compress.checkpoints.checkpoint import Checkpoint
from compress.config import BenchConfig
from compress.importers import Hints
from compress.importers.timm_registry import place_files
from compress.methods import METHODS, Method

AMOUNTS = ("keep", "r", "target_macs")  # settings of methods that say how much leaves; each is an option too


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked for."""

    path: Path  # of the checkpoint
    verb: str
    method: str
    amounts: Mapping[str, str | None]  # by setting, as typed: one value, or several with commas
    learned: bool  # whether the method finds where and how many tokens leave, at the cost of what `amounts` says
    epochs: int
    config: Path | None
    data: str | None
    device: str
    batch_size: int
    threads: int
    seed: int | None
    out: Path | None
    resume: bool
    hints: Hints = field(default_factory=Hints)
    seconds: float = 5.0  # of latency measurement, at most
    images: Data | None = None  # the data set itself, instead of its name
    force: bool = False  # replace a file that is better, or of unknown origin
    skip_unreadable: bool = False  # leave out images of folders that cannot be read

    @property
    def target(self) -> Path:
        """The checkpoint that is written."""
        if self.names_file:
            assert self.out is not None
            return self.out
        place = place_files(self.path)
        return (self.out or place.parent) / f"{place.stem}.{self.method}.pth"

    @property
    def folder(self) -> Path:
        """The run directory of a training."""
        if self.names_file:
            return self.target.with_name(f"{self.target.stem}-{self.verb}")
        place = place_files(self.path)
        return self.out or place.with_name(f"{place.stem}-{self.verb}")

    @property
    def names_file(self) -> bool:
        """Whether `out` is the checkpoint itself, not its folder."""
        return self.out is not None and self.out.suffix == ".pth" and not self.out.is_dir()


def read_settings(request: Request, content: Checkpoint) -> BenchConfig:
    """Those of the file, on the data of the checkpoint unless another is named; fine-tuning takes `epochs`."""
    name = request.images.name if request.images else request.data
    settings = config_.read_for_checkpoint(
        request.path, content.dataset, request.config, name, request.seed, content.config
    )
    skip = request.skip_unreadable or settings.skip_unreadable
    return config_.shorten_finetuning(settings.model_copy(update={"skip_unreadable": skip}), request.epochs)


def read_methods(request: Request, settings: BenchConfig) -> dict[str, Method]:
    """The method once for each amount, by what its line is called.

    Raises:
        InputError: it takes nothing out, or has no such setting or value.
    """
    kinds = {name: kind for name, kind in METHODS.items() if "tune" in kind.model_fields}
    kind = kinds.get(request.method)
    if kind is None:
        raise InputError(f"--method {request.method!r} takes nothing out; choose from {', '.join(kinds)}")
    if request.learned and "learned" not in kind.model_fields:
        raise InputError(f"--learned is for topk and tome, not for {request.method}; remove it")
    typed = {name: text for name, text in request.amounts.items() if text is not None}
    taken = [name for name in AMOUNTS if name in kind.model_fields]
    for name in typed:
        if name not in taken:
            options = " or ".join(map(name_option, taken))
            raise InputError(f"{name_option(name)} is not for {request.method}, which takes {options}; remove it")
    if len(typed) > 1:
        raise InputError(f"{' and '.join(map(name_option, typed))} both say how much leaves; give one of them")
    table: dict[str, Any] = {**settings.methods.get(request.method, {}), "tune": request.epochs > 0}
    table |= {"learned": True} if request.learned else {}
    if not typed:
        method = variant.make_method(request.method, table)
        amount = next((name for name in taken if getattr(method, name) is not None), None)
        return {f"{amount} {getattr(method, amount)}" if amount else method.name: method}
    ((amount, text),) = typed.items()
    table = {name: value for name, value in table.items() if name not in AMOUNTS}
    values = _values(text, name_option(amount))
    if request.epochs and len(values) > 1:
        raise InputError(f"--epochs trains one model, but {name_option(amount)} names {len(values)}; give one value")
    found = {}
    for value in values:
        try:
            found[f"{amount} {value}"] = kind(**{**table, amount: value})
        except ValidationError as error:
            raise files.explain(error, f"{name_option(amount)} {value}") from error
    return found


def name_option(setting: str) -> str:
    return "--" + setting.replace("_", "-")


def _values(text: str, option: str) -> list[float]:
    """`1,0.7` -> [1, 0.7], each once; raises InputError for anything but numbers."""
    parts = [part.strip() for part in text.split(",")]
    try:
        return list(dict.fromkeys(int(part) if part.isdecimal() else float(part) for part in parts))
    except ValueError:
        raise InputError(f"{option} {text!r} is not a number, or several with commas between them") from None
