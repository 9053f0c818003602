"""A sweep file -> what is tried.

The file holds the tables of a bench, or names another file that does (`base`), and says which settings change:

    base = "../digits.toml"
    [sweep.space]
    "model.dim" = [64, 128]
    "train.lr" = {low = 1e-4, high = 1e-2, log = true}
"""

import difflib
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from baselines.errors import InputError
from baselines.train import TrainConfig
from baselines.vit import ViTConfig
from compress import __version__, config, files
from compress.config import BenchConfig
from compress.ranges import Choices, Range

MOST = 2000  # points of a grid
VALIDATION = 0.2  # share of the training images that trials are compared on, where the file does not say
TABLES: dict[str, type[BaseModel]] = {"model": ViTConfig, "train": TrainConfig}
FIXED = {  # what would make trials incomparable
    "model.classes": "the data set determines it",
    "train.validation": "all trials are compared on the same images",
}
Point = dict[str, Any]  # a value for each setting that is swept, by its name with a dot


class Plan(BaseModel):
    """The table [sweep]. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampler: Literal["grid", "random", "tpe"] = "grid"
    trials: int | None = Field(default=None, gt=0, le=100_000)  # of random and tpe; a grid runs every point
    mlp_ratio: float | None = Field(default=None, gt=0, le=1000)  # where given, mlp_dim is so many times dim
    space: dict[str, Choices] = Field(min_length=1)

    @field_validator("space", mode="before")
    @classmethod
    def _choices(cls, value: Any) -> Any:
        """Each setting with its distinct values or its range; `model.dim` may be written with quotes or without."""
        found: dict[str, Any] = {}
        for name, choices in value.items() if isinstance(value, dict) else ():
            inner = choices.items() if name in TABLES and isinstance(choices, dict) else ()
            found |= {f"{name}.{key}": _values(f"{name}.{key}", each) for key, each in inner}
            found |= {} if inner else {name: _values(name, choices)}
        return found if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _agrees(self) -> "Plan":
        ranges = [name for name, choices in self.space.items() if isinstance(choices, Range)]
        if self.sampler == "grid" and ranges:
            raise ValueError(f"a grid needs lists, and {ranges[0]!r} is a range; list its values, or set sampler 'tpe'")
        count = math.prod(len(choices) for choices in self.space.values() if not isinstance(choices, Range))
        if self.sampler == "grid" and count > MOST:
            raise ValueError(f"a grid of {count:,} points is too large; set sampler 'random' or 'tpe', and trials")
        if (self.sampler == "grid") != (self.trials is None):
            remedy = "remove trials" if self.trials else f"set trials, which {self.sampler!r} needs"
            raise ValueError(f"a grid runs every point, other samplers run the number given as trials; {remedy}")
        if self.mlp_ratio is not None and "model.mlp_dim" in self.space:
            raise ValueError("mlp_ratio and 'model.mlp_dim' both set mlp_dim; remove one of them")
        return self

    def slots(self) -> dict[str, Point]:
        """What there is to do, by a name that says which: the points of the grid, or draws whose values are open."""
        if self.trials is not None:
            return {f"draw {index}": {} for index in range(self.trials)}
        lists = [choices for choices in self.space.values() if not isinstance(choices, Range)]
        points = [dict(zip(self.space, values, strict=True)) for values in itertools.product(*lists)]
        return {json.dumps(point): point for point in points}


@dataclass(frozen=True)
class Sweep:
    """A sweep file, read and checked."""

    name: str
    plan: Plan
    given: dict[str, Any]  # the tables of a bench
    base: BenchConfig  # what they come to

    def key(self, *parts: Any) -> str:
        """Hash of all that decides on the trials but their number, so that more can be asked for later."""
        trained = self.base.model_dump(include={"data", "subset", "seed", "model", "train"})
        return files.key(__version__, trained, self.plan.model_dump(exclude={"trials"}), *parts)

    def at(self, point: Point) -> BenchConfig:
        """The settings of one trial.

        Raises:
            ValidationError: they contradict one another, as heads that do not divide dim.
        """
        tables = config.fill_from_preset(self.given)
        for name, value in point.items():
            table, _, key = name.rpartition(".")
            tables = config.merge(tables, {table: {key: value}} if table else {key: value})
        if self.plan.mlp_ratio is not None:
            dim = tables["model"].get("dim", ViTConfig().dim)
            tables = config.merge(tables, {"model": {"mlp_dim": round(self.plan.mlp_ratio * dim)}})
        return BenchConfig(**tables)


def read(path: Path) -> Sweep:
    """A sweep file; raises InputError for what is missing, unknown or impossible in every trial."""
    given = config.read_toml(path, "sweep file")
    try:
        plan = Plan(**given.pop("sweep", {}))
    except ValidationError as error:
        raise files.explain(error, f"{path} [sweep]") from error
    except TypeError as error:
        raise InputError(f"{path}: sweep is not a table; write [sweep] and [sweep.space]") from error
    if (base := given.pop("base", None)) is not None:
        given = config.merge(config.read_toml(path.parent / str(base), f"{path}: the base"), given)
    given = config.merge({"train": {"validation": VALIDATION}}, given)
    if "init" in given:
        raise InputError(f"{path}: a sweep trains from scratch; remove init")
    sweep = Sweep(path.stem, plan, given, config.resolve(given, str(path)))
    if not sweep.base.train.validation:
        raise InputError(
            f"{path}: a sweep compares trials on images held out of the training images, and [train] validation is 0; "
            f"set it to {VALIDATION}, or remove it"
        )
    for name, choices in plan.space.items():
        _check_known(path, name)
        for value in (choices.low, choices.high) if isinstance(choices, Range) else choices:
            _check_value(path, sweep, name, value)
    return sweep


def _values(name: str, choices: Any) -> Choices:
    if isinstance(choices, list) and choices:
        if not all(isinstance(each, bool | int | float | str) for each in choices):
            raise ValueError(f"{name!r} may hold only numbers, strings, true and false")
        return tuple(dict.fromkeys(choices))
    if isinstance(choices, dict) and {"low", "high"} <= choices.keys() <= {"low", "high", "log"}:
        try:
            return Range(**choices)
        except ValidationError as error:
            raise ValueError(f"{name!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
    raise ValueError(f"{name!r} is neither a list of values nor {{low = ..., high = ...}}; write one of them")


def _check_known(path: Path, name: str) -> None:
    known = ["seed", *(f"{table}.{key}" for table, model in TABLES.items() for key in model.model_fields)]
    if name in FIXED:
        raise InputError(f"{path} [sweep.space]: {name!r} cannot be swept, since {FIXED[name]}; remove it")
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}" if close else "give seed, or keys of [model] and [train] as in 'model.dim'"
        raise InputError(f"{path} [sweep.space]: {name!r} is not a setting; {hint}")


def _check_value(path: Path, sweep: Sweep, name: str, value: Any) -> None:
    """Refuses what no model can have; what only contradicts other settings costs the trials in which it does."""
    try:
        sweep.at({name: value})
    except ValidationError as error:
        if error.errors()[0]["type"] != "value_error":
            raise files.explain(error, f"{path} [sweep.space]") from error
