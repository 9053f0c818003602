"""What the readers of foreign checkpoints share: a model of somebody else's, and what a person says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from baselines.vit import ViTConfig

if TYPE_CHECKING:
    from compress.importers.weights import Weights

UNKNOWN = "an architecture that compress does not know comes in as code: --model path/to/file.py:factory"


@dataclass(frozen=True)
class Hints:
    """What a person says of a file that does not say it itself."""

    heads: int | None = None
    image_size: tuple[int, int] | None = None  # height, width
    normalise: str | None = None  # a name, or means and deviations
    ema: bool = True  # whether averaged weights go before the last ones, where a file holds both
    model: str | None = None  # code that makes the model: path/to/file.py:factory or package.module:factory


@dataclass(frozen=True)
class Source:
    """What was read from a file or folder, before anybody knows whose it is."""

    path: Path
    tensors: dict[str, Tensor]
    settings: dict[str, Any] = field(default_factory=dict)  # config.json beside the weights
    preprocessing: dict[str, Any] = field(default_factory=dict)  # preprocessor_config.json
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Foreign:
    """A model of somebody else's, as one of ours."""

    config: ViTConfig
    state: dict[str, Tensor]  # by our names, float32
    classes: tuple[str, ...] = ()  # their names; empty where the file does not say
    mean: tuple[float, ...] = ()  # per channel, of pixels in [0, 1]; empty where the file does not say
    std: tuple[float, ...] = ()
    head: bool = True  # whether it knows classes
    notes: tuple[str, ...] = ()  # what was taken for granted
    family: str = ""  # whose layout it is
    numbers: str = "fp32"  # in which its weights came


@dataclass(frozen=True)
class Outgoing:
    """A model of ours as another library takes it."""

    tensors: dict[str, Tensor]  # by its names
    usage: str  # Python that makes the model which takes them, for the person at the terminal
    settings: dict[str, Any] = field(default_factory=dict)  # its config.json; where there is one, a folder is written
    preprocessing: dict[str, Any] = field(default_factory=dict)  # its preprocessor_config.json


@dataclass(frozen=True)
class Family:
    """One layout of checkpoints.

    `read` turns what was found into a model of ours; `marker` ends a name that no other layout has. Where there are
    several, the first that is found counts. `write` is the way back; it raises InputError where the model has something
    that the library does not.
    """

    name: str
    marker: str | tuple[str, ...]
    read: Callable[[Weights, Hints], Foreign]
    write: Callable[[Foreign], Outgoing] | None = None
