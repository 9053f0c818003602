"""A name -> a baseline and an ordered list of methods -> a model that ships.

`avit_int8` is `avit`, then `int8`. Methods stand in the order geometry, tokens, objective, numerics; what cannot be is
refused when the name is read, before anything is trained.
"""

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from baselines.classifier import Classifier, ImageConfig
from baselines.data import Data
from baselines.distributed import ALONE, World
from baselines.errors import InputError
from baselines.guided import Guided
from baselines.train import Snapshot, TrainConfig, fit
from baselines.vit import VisionTransformer
from compress import checkpoint, files, modules
from compress.checkpoint import Checkpoint
from compress.importers import Hints
from compress.measure import recovery
from compress.methods import METHODS, Floor, Method
from compress.methods.base import check_architecture
from compress.modules import ModuleConfig

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
    def stages(self) -> list["Variant"]:
        """What is trained or calibrated one after another: a new geometry, the other float methods, the numerics.

        Without token methods the geometry learns what the objective says from the start.
        """
        first = (Floor.GEOMETRY,) if any(method.floor == Floor.TOKENS for method in self.methods) else ()
        floors = (*first, Floor.OBJECTIVE, Floor.NUMERICS)
        parts = [replace(self, methods=tuple(m for m in self.methods if m.floor <= floor)) for floor in floors]
        before = [replace(self, methods=()), *parts]
        return [part for part, other in zip(parts, before, strict=False) if part != other]

    @property
    def numbers(self) -> str:
        """In which the products are meant to run: fp32, bf16 or int8."""
        return self.methods[-1].numbers if self.methods else "fp32"

    def describe(self) -> list[dict[str, Any]]:
        return [{"name": method.name, **method.model_dump()} for method in self.methods]


def base_of(config: ImageConfig) -> str:
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
    ordered = sorted(methods, key=lambda method: method.floor)
    if list(methods) != ordered:
        right = "_".join(method.name for method in ordered)
        raise InputError(f"variant {name!r} has its methods in an impossible order; write {right!r}")
    for first, second in itertools.pairwise(ordered):
        if first.floor == second.floor and (first.name == second.name or first.exclusive or second.exclusive):
            raise InputError(
                f"variant {name!r} cannot hold both {first.name!r} and {second.name!r}: "
                f"at most one method may decide on {first.floor.name.lower()}"
            )
    return tuple(methods)


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


def apply(
    start: Model,
    done: Sequence[Method],
    new: Sequence[Method],
    data: Data,
    *,
    teacher: Any,
    training: TrainConfig,
    calibration: list[Tensor],
    device: torch.device,
    seed: int,
    title: str,
    snapshot: Snapshot | None = None,
    log: Callable[[dict[str, float]], None] | None = None,
    world: World = ALONE,
) -> tuple[Model, list[dict[str, float]]]:
    """Adds methods to a model that already holds others; `start` is untouched.

    Args:
        start: model with `done` applied and trained.
        new: methods to add; the model is fine-tuned if one of them trains, with the loss terms of all methods.
        teacher: whom those learn from that need one.
        calibration: normalised training images, each (B, C, height, width).

    Returns:
        The model, not converted, in evaluation mode, and the record of its training, one entry an epoch. Where it was
        fine-tuned, an entry holds the `top1` and `macs` it would have ended with, the first also those it began with.
    """
    model: Any = prepare(start, new).to(device)
    for method in new:
        method.begin(model, [batch.to(device) for batch in calibration])
        training = method.training(training)
    history: list[dict[str, float]] = []

    def worth(model: VisionTransformer) -> dict[str, float]:
        """For the record alone: test images score, and nothing is ever chosen by what they say."""
        return recovery.score(calibrate(model, new, calibration, device), data, device, world)

    if any(method.tuned for method in new):
        methods = [*done, *new]
        history = fit(
            model,
            data,
            training,
            device=device,
            seed=seed,
            title=title,
            terms=[method.loss_terms for method in methods],
            teacher=teacher.to(device).eval() if any(method.needs_teacher for method in methods) else None,
            lr_scale={prefix: scale for method in methods for prefix, scale in method.lr_scale().items()},
            snapshot=snapshot,
            log=log,
            world=world,
            trainer=guided(methods, model, teacher),
            probe=None if any(method.from_scratch for method in new) else worth,
        )
    return calibrate(model, new, calibration, device), history


def calibrate(model: Model, methods: Sequence[Method], images: list[Tensor], device: torch.device) -> Model:
    """The same model, in evaluation mode, after each of the methods has measured on training images what it needs."""
    made: Any = model.eval()
    for method in methods:
        method.calibrate(made, [batch.to(device) for batch in images])
    return model.eval()


def guided(methods: Sequence[Method], model: VisionTransformer, teacher: Any) -> partial[Guided]:
    """A training of `model` in which labels count as much as methods leave to them, with the guides methods need."""
    guides = [guide for method in methods if (guide := method.guide(model, teacher)) is not None]
    return partial(Guided, label_weight=math.prod(method.label_weight() for method in methods), guides=guides)


def pack(
    model: Classifier,
    methods: Sequence[Method],
    data: Data,
    config: ImageConfig,
    *,
    converted: bool = False,
    calibration: dict[str, Any] | None = None,
) -> Checkpoint:
    """A model with all that is needed to rebuild and feed it."""
    return Checkpoint(
        config=config,
        methods=tuple({"name": method.name, **method.model_dump()} for method in methods),
        state=model.state_dict(),
        dataset=data.name,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        converted=converted,
        calibration=calibration,
    )


def widened(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in float32, in which a model is rebuilt; those that are so are not copied."""
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def restore(path: Path | None, hints: Hints | None = None) -> tuple[Classifier, Variant, Checkpoint]:
    """Reads a checkpoint and rebuilds its model on the CPU, in evaluation mode, converted if the file is.

    Args:
        path: None for a model of the user's code, with the weights that it gives.
        hints: what a file of another library does not say itself.

    Raises:
        InputError: the file cannot be read, holds a model that was only pretrained, or weights that do not fit its own
            description.
    """
    content = checkpoint.load(path, hints) if path else checkpoint.of_code(hints or Hints())
    if content.pretrained:
        raise InputError(f"{path} was pretrained and knows no classes yet; train it with: compress train --init {path}")
    methods = []
    for entry in content.methods:
        settings = dict(entry)
        try:
            methods.append(make_method(str(settings.pop("name", None)), settings))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    variant = Variant(check_order(str(path), methods), base_of(content.config))
    added = [method for method in methods if not method.from_scratch]
    assign = not added and not isinstance(content.config, ModuleConfig)
    with torch.device("meta" if assign else "cpu"):  # weights of a plain model are those that were read, not copies
        model = modules.blank(content.config, path, hints)  # of what it became, where a method made a new geometry
    model = prepare(model, added)
    model = convert(model, methods) if content.converted else model
    try:
        model.load_state_dict(content.state if added else widened(content.state), assign=assign)
    except RuntimeError as error:
        fault = str(error).split("\n\t")[1].rstrip(". ") if "\n\t" in str(error) else str(error)
        raise InputError(
            f"{path} does not hold the weights its own description asks for ({fault}); {checkpoint.ANEW}"
        ) from error
    return model.eval(), variant, content


def restore_vit(path: Path, hints: Hints | None = None) -> tuple[VisionTransformer, Variant, Checkpoint]:
    """As `restore`; raises InputError for a model of the user's code too."""
    model, variant, content = restore(path, hints)
    if not isinstance(model, VisionTransformer):
        assert isinstance(content.config, ModuleConfig)
        raise modules.no_transformer(content.config)
    return model, variant, content
