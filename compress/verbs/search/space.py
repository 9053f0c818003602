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
from compress.methods import METHODS, Stage
from compress.ranges import Choices, Range, suggest
from compress.runtimes import Runtime
from compress.variant import Variant, list_new_weights
from compress.verbs.search.lowerings import Lowering, Tables, describe_settings, list_lowerings, make_drawn

NONE, LOWERING, REFINED = "none", "lowering", "refined"
ORDER = {"int8": 0, "bf16": 1, "fp32": 2}  # of the lowerings that are tried without anything else
Point = dict[str, Any]


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
        methods = [make_drawn(name, self.tables, self._draw_settings(name, point), tuned=tuned) for name in names]
        return Variant(tuple(methods)), self.lowerings[point[LOWERING]].runtime

    def _draw_settings(self, name: str, point: Point) -> dict[str, Any]:
        """What a point says of one of its methods."""
        lowering = self.lowerings[point[LOWERING]]
        drawn = {key.partition(".")[2]: value for key, value in point.items() if key.startswith(f"{name}.")}
        drawn |= dict(lowering.settings) if name == lowering.method else {}
        return {**drawn, **(METHODS[name].refinement if point.get(REFINED) else {})}

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
                point: Point = {**dict.fromkeys(self.stages, NONE), stage: name, LOWERING: lowering}
                for key, values in self._list_values(point).items():
                    point[key] = values[round(share * (len(values) - 1))]
                found.append(point)
        return [point for index, point in enumerate(found) if point not in found[:index]]

    def list_neighbours(self, point: Point) -> list[Point]:
        """Points that differ in one step of one setting, or in one more method at either end of its ranges."""
        found = []
        for name, values in self._list_values(point).items():
            index = values.index(point[name]) if point[name] in values else 0
            found += [{**point, name: value} for value in values[max(index - 1, 0) : index + 2]]
        for stage in (each for each in self.stages if point[each] == NONE):
            for method, end in itertools.product(self.stages[stage], (-1, 0)):
                more = {**point, stage: method}
                ends = {name: values[end] for name, values in self._list_values(more).items() if name not in point}
                found.append({**more, **ends})
        return [each for each in found if each != point]

    def _list_values(self, point: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
        """All values of the settings that the methods of a point have."""
        ranges = self._list_ranges(point)
        return {name: each if isinstance(each, tuple) else each.list_values() for name, each in ranges.items()}

    def list_points(self) -> Iterator[Point]:
        """All of them, in an order that never changes."""
        names = [*self.stages]
        for chosen in itertools.product(self.lowerings, *((NONE, *self.stages[stage]) for stage in names)):
            point = {LOWERING: chosen[0], **dict(zip(names, chosen[1:], strict=True))}
            lists = self._list_values(point)
            for values in itertools.product(*lists.values()):
                yield {**point, **dict(zip(lists, values, strict=True))}

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
    found = [*list_lowerings(numbers, tables, engines)]
    found.sort(key=lambda each: (each.runtime.calibrates_itself, ORDER.get(each.dtype, len(ORDER))))
    if not found:
        raise InputError("no engine is left to search in; compress doctor says what this machine has")
    return Space(stages, {each.name: each for each in found}, tables, epochs)


def identify(point: Point) -> str:
    """The same for the same points."""
    return json.dumps(point, sort_keys=True)


def _takes_part(model: VisionTransformer, name: str, tables: Tables, epochs: int) -> bool:
    """Whether a method works on a model with so many epochs of training."""
    method = make_drawn(name, tables, {}, tuned=False)
    if epochs or not method.trains:
        return True
    try:
        return not method.tuned and not list_new_weights(model, method)
    except InputError:  # its default is out of reach for this model; other values may not be
        return True
