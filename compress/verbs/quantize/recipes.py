"""The ways from a float model to a file that `compress quantize` tries.

A recipe is a method with its settings, and the runtime that makes a file of it and runs it. The same 8 bits are fast in
one and slow in another, on one machine and not on the next; so all that can run here take part.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from baselines.device import fast_bf16
from baselines.errors import InputError
from compress import runtimes, variant
from compress.checkpoints.checkpoint import Checkpoint
from compress.checkpoints.user_models import ModuleConfig
from compress.config import BenchConfig
from compress.methods import Bf16, Fp8, Int8, Method, Qat
from compress.methods.base import Integers
from compress.runtimes import Runtime
from compress.verbs.quantize.request import Request

MODES = ("static", "dynamic", "qat")
FLOAT = "fp32"
NAMES = {Int8.name: "static", Qat.name: "trained", Bf16.name: "bf16", Fp8.name: "fp8"}
NARROW = frozenset({"int8", "fp8"})  # what the choice is among


@dataclass(frozen=True)
class Recipe:
    """One way to a file."""

    runtime: Runtime
    method: Method | None  # None: the model as it was

    @property
    def words(self) -> str:
        """What tells it from others in the same runtime: `static + bf16`."""
        kind = FLOAT if self.method is None else NAMES[self.method.name]
        if isinstance(self.method, Int8) and self.method.activations != "static":
            kind = "dynamic" if self.method.activations == "tensor" else f"dynamic by {self.method.activations}"
        fallback = self.method.fallback_dtype if isinstance(self.method, Integers) else FLOAT
        return kind + (f" + {fallback}" if fallback != FLOAT else "")

    @property
    def name(self) -> str:
        return f"{self.runtime.name}: {self.words}"

    @property
    def label(self) -> str | None:
        """`words`, where the name of the variant does not say the same."""
        return self.words if isinstance(self.method, Integers) else None

    @property
    def narrow(self) -> bool:
        """Whether its products are in 8 bits, so that the choice is among it."""
        return self.method is not None and self.method.dtype in NARROW


def read_method(request: Request, settings: BenchConfig) -> Int8 | Qat:
    """The method with the settings of the file and the options.

    Raises:
        InputError: an unknown mode, or settings that do not fit.
    """
    if request.mode not in (None, *MODES):
        raise InputError(f"--mode {request.mode!r} is not known; choose from {', '.join(MODES)}")
    alone = [("--max-drop", request.max_drop is not None), ("--sensitivity", request.sensitivity)]
    for option, set_ in (*alone, ("--calibration-study", request.calibration_study)):
        if set_ and request.mode == "qat":
            raise InputError(f"{option} is about models that are not trained; leave out --mode qat, or {option}")
    name = Qat.name if request.mode == "qat" else Int8.name
    table: dict[str, Any] = dict(settings.methods.get(name, {}))
    if request.mode == "dynamic":
        table = {"activations": "tensor", **table}
    if request.skip:
        table["skip"] = request.skip
    method = variant.make_method(name, table)
    assert isinstance(method, Int8 | Qat)
    return method


def check_architecture(request: Request, content: Checkpoint) -> None:
    """Raises InputError for what is about layers of ours, where the model has none."""
    if not isinstance(content.config, ModuleConfig):
        return
    for option, set_ in (
        ("--mode qat", request.mode == Qat.name),
        ("--mode dynamic", request.mode == "dynamic"),
        ("--max-drop", request.max_drop is not None),
        ("--sensitivity", request.sensitivity),
        ("--calibration-study", request.calibration_study),
    ):
        if set_:
            raise InputError(
                f"{option} is for Vision Transformers; of {content.config.factory} engines make static int8 on their "
                f"own: leave out {option}, and name layers that stay float with --skip"
            )


def list_engines(names: tuple[str, ...], device: str, *, foreign: bool = False) -> list[Runtime]:
    """The runtimes that take part.

    Args:
        names: that were asked for; all without.
        foreign: whether the model is no Vision Transformer.

    Raises:
        InputError: one that was asked for is unknown, not installed, or multiplies no integers.
    """
    if foreign and device == "cuda":
        raise InputError("--device cuda makes no integers of such a model; leave it out: engines do, on a CPU")
    usable = []
    for runtime in runtimes.get_all(names):
        here = device in runtime.devices()
        if here and (NARROW & runtime.dtypes_on(device) or (device == "cuda" and not names)):  # or a rival in float
            usable.append(runtime)
        elif names:
            raise InputError(
                f"--runtime {runtime.name} multiplies no integers on {device}; compress doctor says what does"
            )
    if foreign and names and not any(runtime.quantizes for runtime in usable):
        raise InputError(f"--runtime {','.join(names)} makes no integers of such a model; onnxruntime and nncf do")
    return usable


def list_recipes(
    mode: str | None,
    method: Int8 | Qat,
    usable: list[Runtime],
    device: str,
    *,
    images_decide: bool,
    foreign: bool = False,
) -> list[Recipe]:
    """Float files to compare with, then every way to integers that runs here.

    Args:
        images_decide: whether the number of tokens depends on the image: such a model cannot be compiled.
        foreign: whether it is no Vision Transformer: only runtimes that quantize a graph make integers of it.
    """
    usable = [runtime for runtime in usable if not (runtime.static_shapes and images_decide)]
    first = runtimes.get("torch")
    others = [runtime for runtime in usable if runtime is not first and "fp32" in runtime.dtypes]
    floats = [Recipe(runtime, None) for runtime in (first, *others)]
    floats += [Recipe(runtime, Bf16()) for runtime in usable if _computes_bf16(runtime, device)]
    if foreign:
        usable, mode = [runtime for runtime in usable if runtime.quantizes], "static"
    narrow = [
        Recipe(runtime, each)
        for runtime in usable
        for each in (*_list_methods(runtime, method, mode), *([Fp8(skip=method.skip)] if mode is None else []))
        if each.dtype in runtime.dtypes_on(device)
    ]
    return [*floats, *narrow]


def _computes_bf16(runtime: Runtime, device: str) -> bool:
    """Whether bf16 is a rival in it. On a GPU it is in torch, too; on a CPU engines round to it on their own."""
    if device == "cuda" and runtime.suffix == runtimes.CHECKPOINT:
        return fast_bf16(torch.device(device))
    return "bf16" in runtime.fallback_dtypes and not runtime.calibrates_itself


def _list_methods(runtime: Runtime, method: Int8 | Qat, mode: str | None) -> Iterator[Method]:
    trained = isinstance(method, Qat)
    if trained or (mode in (None, "static") and method.activations == "static"):
        for fallback in runtime.fallback_dtypes:
            if not (trained and runtime.calibrates_itself):
                yield method.model_copy(update={"fallback_dtype": fallback})
    if isinstance(method, Int8) and mode in (None, "dynamic"):
        for kind in runtime.dynamic_granularities:
            yield method.model_copy(update={"activations": kind, "attention": False, "fallback_dtype": "fp32"})
