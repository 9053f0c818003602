"""Numbers and the engines that multiply in them: what runtimes can lower of what numeric methods declare."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baselines.errors import InputError
from compress import runtimes
from compress.methods import METHODS, Method
from compress.ranges import Range
from compress.runtimes import Runtime
from compress.variant import make_method
from compress.verbs.prune.request import AMOUNTS

Tables = Mapping[str, Mapping[str, Any]]  # settings that are fixed, by method


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


def list_engines(names: Sequence[str], device: str) -> list[Runtime]:
    """The runtimes that take part: those named, or all that work here and do not compile anew in every process.

    Raises:
        InputError: one that was named is unknown, not installed, or not for the device.
    """
    found = []
    for runtime in runtimes.get_all(names):
        if device in runtime.devices() and (names or not runtime.static_shapes):
            found.append(runtime)
        elif names:
            raise InputError(f"--runtime {runtime.name} cannot use --device {device} here; compress doctor says why")
    return found


def list_lowerings(numbers: Sequence[str], tables: Tables, engines: Sequence[Runtime]) -> Iterator[Lowering]:
    """Float32, and each of the numbers with all its settings that an engine can lower."""
    for runtime in engines:
        if runtime.lowers(None):
            yield Lowering(runtime, None, {}, "fp32")
        for name in numbers:
            lists = {key: each for key, each in (METHODS[name].ranges or {}).items() if not isinstance(each, Range)}
            for values in itertools.product(*lists.values()):
                settings = dict(zip(lists, values, strict=True))
                try:
                    method = make_drawn(name, tables, settings, tuned=METHODS[name].trains)
                except InputError:  # which do not go together
                    continue
                if runtime.lowers(method):
                    yield Lowering(runtime, name, settings, method.dtype)


def make_drawn(name: str, tables: Tables, drawn: Mapping[str, Any], *, tuned: bool) -> Method:
    """A method with what is fixed of its settings and what is drawn; raises InputError where they contradict."""
    kind, fixed = METHODS[name], dict(tables.get(name, {}))
    if set(drawn) & set(AMOUNTS):  # one of them says how much
        fixed = {key: value for key, value in fixed.items() if key not in AMOUNTS}
    tune = {"tune": tuned} if "tune" in kind.model_fields else {}
    return make_method(name, {**fixed, **drawn, **tune})


def describe_settings(kind: type[Method], settings: Mapping[str, Any]) -> str:
    """`target_macs 0.7, learned`: those that are not the default."""
    defaults = {name: field.default for name, field in kind.model_fields.items()}
    told = [(name, value) for name, value in settings.items() if value != defaults[name]]
    return ", ".join(name if value is True else f"{name} {value}" for name, value in told)
