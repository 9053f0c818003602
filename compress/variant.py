"""A name -> a baseline and an ordered list of methods -> a model that ships.

`avit_int8` is `avit`, then `int8`. Methods stand in the order geometry, tokens, objective, numerics; what cannot be is
refused when the name is read, before anything is trained.
"""

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from baselines.classifier import Classifier, ImageConfig
from baselines.errors import InputError
from compress import files
from compress.checkpoints.user_models import ModuleConfig
from compress.methods import METHODS, Method, Stage
from compress.methods.base import check_architecture

BASELINE = "vit"
Model = TypeVar("Model", bound=Classifier)


@dataclass(frozen=True)
class Variant:
    """The baseline with methods applied to it, in order."""

    methods: tuple[Method, ...]
    base: str = BASELINE  # name of the baseline

    @property
    def name(self) -> str:
        parts = [] if self.base == BASELINE else [self.base]
        return "_".join([*parts, *(method.name for method in self.methods)]) or BASELINE

    @property
    def training_steps(self) -> list["Variant"]:
        """What is trained or calibrated one after another: a new geometry, the other float methods, the numerics.

        Without token methods the geometry learns what the objective says from the start.
        """
        first = (Stage.GEOMETRY,) if any(method.stage == Stage.TOKENS for method in self.methods) else ()
        stages = (*first, Stage.OBJECTIVE, Stage.NUMERICS)
        parts = [replace(self, methods=tuple(m for m in self.methods if m.stage <= stage)) for stage in stages]
        before = [replace(self, methods=()), *parts]
        return [part for part, other in zip(parts, before, strict=False) if part != other]

    @property
    def dtype(self) -> str:
        """In which the products are meant to run: fp32, bf16 or int8."""
        return self.methods[-1].dtype if self.methods else "fp32"

    def describe(self) -> list[dict[str, Any]]:
        return [{"name": method.name, **method.model_dump()} for method in self.methods]


def baseline_name(config: ImageConfig) -> str:
    """What a baseline is called."""
    return config.name if isinstance(config, ModuleConfig) else BASELINE


def parse(name: str, settings: Mapping[str, Mapping[str, Any]] | None = None, base: str = BASELINE) -> Variant:
    """Reads a variant's name.

    Args:
        settings: hyper-parameters by method name; defaults otherwise.
        base: name of the baseline.

    Raises:
        InputError: unknown method, impossible order or combination, unknown or impossible setting.
    """
    parts, first = name.split("_"), base.split("_")
    parts = parts[len(first) :] if parts[: len(first)] == first else parts
    for part in parts:
        if part not in METHODS:
            raise InputError(
                f"variant {name!r} is not known: {part!r} is no method; choose from "
                f"{', '.join([base, *METHODS])}, or combine methods as in avit_int8"
            )
    methods = [make_method(part, (settings or {}).get(part, {})) for part in parts]
    return Variant(check_order(name, methods), base)


def make_method(name: str, settings: Mapping[str, Any]) -> Method:
    """Raises InputError for settings the method does not have."""
    if name not in METHODS:
        raise InputError(f"method {name!r} is not known; choose from {', '.join(METHODS)}")
    try:
        return METHODS[name](**settings)
    except ValidationError as error:
        raise files.explain(error, f"[methods.{name}]") from error


def check_order(name: str, methods: Sequence[Method]) -> tuple[Method, ...]:
    """The methods; raises InputError unless they go tokens, objective, numerics, and none excludes another."""
    ordered = sorted(methods, key=lambda method: method.stage)
    if list(methods) != ordered:
        right = "_".join(method.name for method in ordered)
        raise InputError(f"variant {name!r} has its methods in an impossible order; write {right!r}")
    for first, second in itertools.pairwise(ordered):
        if first.stage == second.stage and (first.name == second.name or first.exclusive or second.exclusive):
            raise InputError(
                f"variant {name!r} cannot hold both {first.name!r} and {second.name!r}: "
                f"at most one method may decide on {first.stage.name.lower()}"
            )
    return tuple(methods)


def list_new_weights(model: Classifier, method: Method) -> set[str]:
    """Names of the parameters that a method brings into a model, and that nothing has trained yet."""
    if method.searches:  # for numbers of tokens, in what is there
        return set()
    return dict(prepare(model, [method]).named_parameters()).keys() - dict(model.named_parameters()).keys()


def needs_training(model: Classifier, method: Method) -> bool:
    """Whether a method brings weights that nothing but training sets."""
    return bool(list_new_weights(model, method)) and type(method).calibrate is Method.calibrate


def prepare(model: Model, methods: Sequence[Method]) -> Model:
    """A copy of `model` with the structure of all methods; `model` is untouched.

    Raises:
        InputError: a method does not go with this architecture.
    """
    if isinstance(model.config, ModuleConfig):
        check_architecture(methods, model.config.factory)
    made: Any = copy.deepcopy(model)
    for method in methods:
        made = method.prepare(made)
    return made


def convert(model: Model, methods: Sequence[Method]) -> Model:
    """A copy of `model` as it ships, in evaluation mode."""
    made: Any = copy.deepcopy(model)
    for method in methods:
        made = method.convert(made)
    return made.eval()
