"""What a person asked of `compress quantize`, and the ways from its model to a file that are tried for it.

A lowering is a method with its settings, and the runtime that makes a file of it and runs it. The same 8 bits are fast
in one and slow in another, on one machine and not on the next; so all that can run here are built and measured.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baselines.errors import InputError
from compress import config as config_
from compress import runtimes, variant
from compress.checkpoints.checkpoint import Checkpoint
from compress.checkpoints.modules import ModuleConfig
from compress.config import BenchConfig
from compress.importers import Hints
from compress.methods import Bf16, Int8, Method, Qat
from compress.methods.base import Integers
from compress.runtimes import Runtime

MODES = ("static", "dynamic", "qat")
FLOAT = "fp32"
NAMES = {Int8.name: "static", Qat.name: "trained", Bf16.name: "bf16"}


@dataclass(frozen=True)
class Request:
    """What a person asked for."""

    path: Path  # of the checkpoint
    mode: str | None  # None: static and dynamic
    runtimes: tuple[str, ...]  # empty: all that work here
    data: str | None
    config: Path | None
    calibration_images: int
    test_images: int | None  # scored; None: all
    max_drop: float | None  # points of top-1
    skip: tuple[str, ...]
    epochs: int
    batch_size: int
    threads: int
    seconds: float  # of latency measurement, at most
    seed: int | None
    remeasure: bool
    sensitivity: bool
    study: bool
    resume: bool
    hints: Hints = field(default_factory=Hints)


@dataclass(frozen=True)
class Lowering:
    """One way to a file."""

    runtime: Runtime
    method: Method | None  # None: the model as it was

    @property
    def name(self) -> str:
        kind = FLOAT if self.method is None else NAMES[self.method.name]
        if isinstance(self.method, Int8) and self.method.activations != "static":
            kind = "dynamic" if self.method.activations == "tensor" else f"dynamic by {self.method.activations}"
        rest = self.method.rest if isinstance(self.method, Integers) else "fp32"
        return f"{self.runtime.name}: {kind}{f' + {rest}' if rest != 'fp32' else ''}"

    @property
    def whole(self) -> bool:
        """Whether its products are in integers."""
        return isinstance(self.method, Integers)


def settings(request: Request, content: Checkpoint) -> BenchConfig:
    """Those of the file, on the data of the checkpoint unless another is named."""
    found = config_.of_checkpoint(request.path, content.dataset, request.config, request.data, request.seed)
    share = min(request.epochs / max(found.finetune.epochs, 1), 1)  # a shorter training warms up for less
    short = {"epochs": request.epochs, "steps": 0, "warmup_epochs": found.finetune.warmup_epochs * share}
    return found.model_copy(update={"finetune": found.finetune.model_copy(update=short)})


def method_of(request: Request, found: BenchConfig) -> Int8 | Qat:
    """The method with the settings of the file and the options.

    Raises:
        InputError: an unknown mode, or settings that do not fit.
    """
    if request.mode not in (None, *MODES):
        raise InputError(f"--mode {request.mode!r} is not known; choose from {', '.join(MODES)}")
    alone = [("--max-drop", request.max_drop is not None), ("--sensitivity", request.sensitivity)]
    for option, given in (*alone, ("--calibration-study", request.study)):
        if given and request.mode == "qat":
            raise InputError(f"{option} is about models that are not trained; leave out --mode qat, or {option}")
    name = Qat.name if request.mode == "qat" else Int8.name
    table: dict[str, Any] = dict(found.methods.get(name, {}))
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
    for option, given in (
        ("--mode qat", request.mode == Qat.name),
        ("--mode dynamic", request.mode == "dynamic"),
        ("--max-drop", request.max_drop is not None),
        ("--sensitivity", request.sensitivity),
        ("--calibration-study", request.study),
    ):
        if given:
            raise InputError(
                f"{option} is for Vision Transformers; of {content.config.factory} engines make static int8 on their "
                f"own: leave out {option}, and name layers that stay float with --skip"
            )


def engines(request: Request, *, elsewhere: bool = False) -> list[Runtime]:
    """The runtimes that take part.

    Args:
        elsewhere: whether the model is no Vision Transformer.

    Raises:
        InputError: one that was asked for is unknown, not installed, or multiplies no integers.
    """
    found = []
    for name in request.runtimes or runtimes.RUNTIMES:
        try:
            runtime = runtimes.get(name)
        except InputError:
            if request.runtimes:
                raise
            continue
        if "int8" in runtime.numbers and "cpu" in runtime.devices():
            found.append(runtime)
        elif request.runtimes:
            raise InputError(f"--runtime {name} multiplies no integers here; compress doctor says what does")
    if elsewhere and request.runtimes and not any(runtime.quantises for runtime in found):
        raise InputError(
            f"--runtime {','.join(request.runtimes)} makes no integers of such a model; onnxruntime and nncf do"
        )
    return found


def lowerings(
    mode: str | None,
    method: Int8 | Qat,
    usable: list[Runtime],
    *,
    images_decide: bool,
    with_float: bool = True,
    elsewhere: bool = False,
) -> list[Lowering]:
    """Float files to compare with, then every way to integers that runs here.

    Args:
        images_decide: whether the number of tokens depends on the image: such a model cannot be compiled.
        elsewhere: whether it is no Vision Transformer: only runtimes that quantise a graph make integers of it.
    """
    usable = [runtime for runtime in usable if not (runtime.fixed_shapes and images_decide)]
    before: list[Lowering] = []
    if with_float:
        torch = runtimes.get("torch")
        others = [runtime for runtime in usable if runtime is not torch and "fp32" in runtime.numbers]
        before = [Lowering(runtime, None) for runtime in (torch, *others)]
        before += [
            Lowering(runtime, Bf16()) for runtime in usable if "bf16" in runtime.rests and not runtime.own_ranges
        ]
    if elsewhere:
        usable, mode = [runtime for runtime in usable if runtime.quantises], "static"
    return [*before, *(Lowering(runtime, each) for runtime in usable for each in _ways(runtime, method, mode))]


def _ways(runtime: Runtime, method: Int8 | Qat, mode: str | None) -> Iterator[Method]:
    trained = isinstance(method, Qat)
    if trained or (mode in (None, "static") and method.activations == "static"):
        for rest in runtime.rests:
            if not (trained and runtime.own_ranges):
                yield method.model_copy(update={"rest": rest})
    if isinstance(method, Int8) and mode in (None, "dynamic"):
        for kind in runtime.dynamic:
            yield method.model_copy(update={"activations": kind, "attention": False, "rest": "fp32"})
