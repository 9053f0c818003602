"""What the importers share: the content of a file, a model of another library, and what the user says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from baselines.resizing import Interpolation, Resizing
from baselines.vit import ViTConfig

if TYPE_CHECKING:
    from compress.importers.weights import Weights

UNKNOWN = (
    "an architecture that compress does not know comes in as code: inspect, quantize, bench, export and distill take "
    "--model path/to/file.py:factory"
)


@dataclass(frozen=True)
class Hints:
    """What the user says of a file that does not say it itself."""

    heads: int | None = None
    image_size: tuple[int, int] | None = None  # height, width
    normalize: str | None = None  # a name, or means and deviations
    ema: bool = True  # whether averaged weights take precedence over the last ones, where a file holds both
    model: str | None = None  # code that makes the model: path/to/file.py:factory or package.module:factory
    resize: str | None = None  # as `parse_resizing` reads it
    interpolation: Interpolation | None = None
    weights: str | None = None  # which of several models in a file: averaged, last, or its name there; before `ema`


@dataclass(frozen=True)
class Content:
    """What a file holds."""

    path: Path  # as it was given
    tree: Any  # names -> tensors, perhaps inside of further dictionaries
    settings: dict[str, Any] = field(default_factory=dict)  # config.json beside the weights
    preprocessing: dict[str, Any] = field(default_factory=dict)  # preprocessor_config.json
    metadata: dict[str, str] = field(default_factory=dict)  # of a safetensors file
    notes: tuple[str, ...] = ()  # assumptions about where in the tree the weights are


@dataclass(frozen=True)
class ImportedModel:
    """A model of another library, as one of ours."""

    config: ViTConfig
    state: dict[str, Tensor]  # by our names, float32
    classes: tuple[str, ...] = ()  # their names; empty where the file does not say
    mean: tuple[float, ...] = ()  # per channel, of pixels in [0, 1]; empty where the file does not say
    std: tuple[float, ...] = ()
    resizing: Resizing | None = None  # None where the file does not say
    head: bool = True  # whether it knows classes
    notes: tuple[str, ...] = ()  # assumptions
    layout: str = ""
    dtype: str = "fp32"  # of the weights in the file
    choice: str = ""  # what every command says: which of several models it is, what of the file is not followed
    parameters: int = 0  # how many of its weights the file holds: what it lacks is 0 here, and no parameter there


@dataclass(frozen=True)
class ExportedModel:
    """A model of ours in the layout of another library."""

    tensors: dict[str, Tensor]  # by its names
    usage: str  # Python that makes the model which takes them, for the user
    settings: dict[str, Any] = field(default_factory=dict)  # its config.json; where there is one, a folder is written
    preprocessing: dict[str, Any] = field(default_factory=dict)  # its preprocessor_config.json


@dataclass(frozen=True)
class Layout:
    """One layout of checkpoints.

    `read` makes a model of ours; `marker` ends a name that no other layout has. Where there are several, the first
    that is found counts. `write` is the way back; it raises InputError where the model has something that the library
    does not have.
    """

    name: str
    marker: str | tuple[str, ...]
    read: Callable[[Weights, Hints], ImportedModel]
    write: Callable[[ImportedModel], ExportedModel] | None = None
    heads: tuple[str, ...] = ()  # names of its head; a Linear layer that wrappers call otherwise gets the first
