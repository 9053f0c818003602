"""What a search may try: made of what methods (`Method.ranges`) and runtimes (`Runtime.lowers`) declare.

A point names a method, or none, for each stage of a variant before its numbers, a value for each setting that those
methods declare, and a lowering: numbers and the engine that multiplies in them.

    {"geometry": "none", "tokens": "tome", "tome.target_macs": 0.7, "lowering": "int8 in openvino"}
"""

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baselines.errors import InputError
from baselines.vit import VisionTransformer
from compress import runtimes
from compress.methods import METHODS, Method, Stage
from compress.ranges import Choices, Range, suggest
from compress.runtimes import Runtime
from compress.variant import Variant, list_new_weights, make_method
from compress.verbs.prune.request import AMOUNTS

NONE, LOWERING, REFINED = "none", "lowering", "refined"
ORDER = {"int8": 0, "bf16": 1, "fp32": 2}  # of the lowerings that are tried without anything else
Point = dict[str, Any]
Tables = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Lowering:
    """Numbers and the engine for them; settings of the numbers that are ranges are drawn apart."""

    runtime: Runtime
    method: str | None  # None: float32
    settings: Mapping[str, Any]
    dtype: str

    @property
    def name(self) -> str:
        told = describe_settings(METHODS[self.method], self.settings) if self.method else ""
        return f"{self.method or 'fp32'}{f' ({told})' if told else ''} in {self.runtime.name}"


@dataclass(frozen=True)
class Space:
    """All points.

    Attributes:
        stages: methods by the name of their stage.
        lowerings: by name.
        tables: settings of methods that are fixed, as a file of settings has them.
        epochs: of fine-tuning that a point may get; 0: none.
    """

    stages: Mapping[str, tuple[str, ...]]
    lowerings: Mapping[str, Lowering]
    tables: Tables
    epochs: int = 0

    def suggest(self, trial: Any) -> Point:
        """The point that a trial of Optuna has, or draws."""
        point: Point = {stage: suggest(trial, stage, (NONE, *names)) for stage, names in self.stages.items()}
        point[LOWERING] = suggest(trial, LOWERING, tuple(self.lowerings))
        return point | {name: suggest(trial, name, choices) for name, choices in self._list_ranges(point).items()}

    def _list_ranges(self, point: Mapping[str, Any]) -> dict[str, Choices]:
        """Settings, by `method.setting`, that the methods of a point have."""
        found: dict[str, Choices] = {}
        for name in self._name_methods(point):
            ranges = METHODS[name].ranges or {}
            fixed = METHODS[name].stage == Stage.NUMERICS  # whose lists are told by the lowering
            found |= {f"{name}.{key}": each for key, each in ranges.items() if not fixed or isinstance(each, Range)}
        return found

    def _name_methods(self, point: Mapping[str, Any]) -> list[str]:
        numbers = self.lowerings[point[LOWERING]].method
        return [*(point[stage] for stage in self.stages if point[stage] != NONE), *([numbers] if numbers else [])]

    def read(self, point: Point, *, tuned: bool = False) -> tuple[Variant, Runtime]:
        """What a point stands for.

        Args:
            tuned: whether methods that can be fine-tuned are.

        Raises:
            InputError: settings contradict one another.
        """
        names = self._name_methods(point)
        methods = [_make(name, self.tables, self._draw_settings(name, point), tuned=tuned) for name in names]
        return Variant(tuple(methods)), self.lowerings[point[LOWERING]].runtime

    def _draw_settings(self, name: str, point: Point) -> dict[str, Any]:
        """What a point says of one of its methods."""
        lowering = self.lowerings[point[LOWERING]]
        drawn = {key.partition(".")[2]: value for key, value in point.items() if key.startswith(f"{name}.")}
        drawn |= lowering.settings if name == lowering.method else {}
        return drawn | (METHODS[name].refinement if point.get(REFINED) else {})

    def must_train(self, point: Point) -> bool:
        """Whether one of its methods is nothing without training."""
        return any(method.tuned for method in self.read(point)[0].methods)

    def can_train(self, point: Point) -> bool:
        return bool(self.epochs) and any(method.tuned for method in self.read(point, tuned=True)[0].methods)

    def refine(self, point: Point) -> Point | None:
        """The same with settings that take longer to find; None where its methods have none."""
        known = any(METHODS[name].refinement for name in self._name_methods(point))
        return {**point, REFINED: True} if known and not point.get(REFINED) else None

    def describe(self, point: Point) -> str | None:
        """What tells it from others of its variant and engine, for a person; None where nothing does."""
        names = self._name_methods(point)
        told = {name: describe_settings(METHODS[name], self._draw_settings(name, point)) for name in names}
        if len(names) == 1:
            return told[names[0]] or None
        return "; ".join(f"{name} {words}" for name, words in told.items() if words) or None

    def list_starts(self) -> list[Point]:
        """Every lowering of the model as it is: what costs no thought, and what the rest is compared with."""
        plain = dict.fromkeys(self.stages, NONE)
        return [{**plain, LOWERING: name} for name in self.lowerings]

    def list_seeds(self, lowering: str) -> list[Point]:
        """Each method alone, at a third and two thirds of its ranges, in one lowering."""
        found = []
        for stage, names in self.stages.items():
            for name, share in itertools.product(names, (2 / 3, 1 / 3)):
                point = {**dict.fromkeys(self.stages, NONE), stage: name, LOWERING: lowering}
                for key, choices in self._list_ranges(point).items():
                    values = choices if isinstance(choices, tuple) else choices.list_values()
                    point[key] = values[round(share * (len(values) - 1))]
                found.append(point)
        return [point for index, point in enumerate(found) if point not in found[:index]]

    def list_points(self) -> Iterator[Point]:
        """All of them, in an order that never changes."""
        names = [*self.stages]
        for chosen in itertools.product(self.lowerings, *((NONE, *self.stages[stage]) for stage in names)):
            point = {LOWERING: chosen[0], **dict(zip(names, chosen[1:], strict=True))}
            ranges = self._list_ranges(point)
            lists = [each if isinstance(each, tuple) else each.list_values() for each in ranges.values()]
            for values in itertools.product(*lists):
                yield {**point, **dict(zip(ranges, values, strict=True))}

    def draw_untried(self, tried: set[str], seed: int) -> Point | None:
        """Any point that is not among `tried` (see `identify`); None where there is none left."""
        left = [point for point in self.list_points() if identify(point) not in tried]
        return random.Random(seed).choice(left) if left else None

    def describe_all(self) -> list[Any]:
        """What makes it, as JSON has it."""
        ranges = {name: repr(METHODS[name].ranges) for names in self.stages.values() for name in names}
        return [dict(self.stages), [*self.lowerings], ranges, self.tables, self.epochs]


def make_space(
    model: VisionTransformer, tables: Tables, engines: Sequence[Runtime], epochs: int, only: Sequence[str] = ()
) -> Space:
    """What there is to try for a model.

    Args:
        tables: settings of methods that the person fixed.
        engines: that may take part.
        epochs: of fine-tuning; with 0 methods that are nothing without training are left out.
        only: names of methods; all that declare ranges without.

    Raises:
        InputError: no engine is left, or `only` names a method that takes no part.
    """
    known = [name for name, kind in METHODS.items() if kind.ranges is not None]
    known = [name for name in known if _takes_part(model, name, tables, epochs)]
    for name in only:
        if name not in known:
            raise InputError(f"--methods {name!r} takes no part in a search here; choose from {', '.join(known)}")
    used = [name for name in known if not only or name in only]
    stages = {
        stage.name.lower(): names
        for stage in Stage
        if stage != Stage.NUMERICS and (names := tuple(name for name in used if METHODS[name].stage == stage))
    }
    numbers = [name for name in used if METHODS[name].stage == Stage.NUMERICS]
    found = [*_list_lowerings(numbers, tables, engines)]
    found.sort(key=lambda each: (each.runtime.calibrates_itself, ORDER.get(each.dtype, len(ORDER))))
    if not found:
        raise InputError("no engine is left to search in; compress doctor says what this machine has")
    return Space(stages, {each.name: each for each in found}, tables, epochs)


def list_engines(names: Sequence[str], device: str) -> list[Runtime]:
    """The runtimes that take part: those named, or all that work here and do not compile anew in every process.

    Raises:
        InputError: one that was named is unknown, not installed, or not for the device.
    """
    found = []
    for name in names or runtimes.REGISTRY:
        try:
            runtime = runtimes.get(name)
        except InputError:
            if names:
                raise
            continue
        if device in runtime.devices() and (names or not runtime.static_shapes):
            found.append(runtime)
        elif names:
            raise InputError(f"--runtime {name} cannot use --device {device} here; compress doctor says why")
    return found


def identify(point: Point) -> str:
    """The same for the same points."""
    return json.dumps(point, sort_keys=True)


def describe_settings(kind: type[Method], settings: Mapping[str, Any]) -> str:
    """`target_macs 0.7, learned`: those that are not the default."""
    defaults = {name: field.default for name, field in kind.model_fields.items()}
    told = [(name, value) for name, value in settings.items() if value != defaults[name]]
    return ", ".join(name if value is True else f"{name} {value}" for name, value in told)


def _list_lowerings(numbers: Sequence[str], tables: Tables, engines: Sequence[Runtime]) -> Iterator[Lowering]:
    for runtime in engines:
        if runtime.lowers(None):
            yield Lowering(runtime, None, {}, "fp32")
        for name in numbers:
            lists = {key: each for key, each in (METHODS[name].ranges or {}).items() if not isinstance(each, Range)}
            for values in itertools.product(*lists.values()):
                settings = dict(zip(lists, values, strict=True))
                try:
                    method = _make(name, tables, settings, tuned=METHODS[name].trains)
                except InputError:  # which do not go together
                    continue
                if runtime.lowers(method):
                    yield Lowering(runtime, name, settings, method.dtype)


def _takes_part(model: VisionTransformer, name: str, tables: Tables, epochs: int) -> bool:
    """Whether a method works on a model with so many epochs of training."""
    method = _make(name, tables, {}, tuned=False)
    if epochs or not method.trains:
        return True
    try:
        return not method.tuned and not list_new_weights(model, method)
    except InputError:  # its default is out of reach for this model; other values may not be
        return True


def _make(name: str, tables: Tables, drawn: Mapping[str, Any], *, tuned: bool) -> Method:
    kind, fixed = METHODS[name], dict(tables.get(name, {}))
    if set(drawn) & set(AMOUNTS):  # one of them says how much
        fixed = {key: value for key, value in fixed.items() if key not in AMOUNTS}
    tune = {"tune": tuned} if "tune" in kind.model_fields else {}
    return make_method(name, {**fixed, **drawn, **tune})
