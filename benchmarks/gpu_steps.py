"""What `gpu.py` does, in order. Nothing heavy is imported here: a step brings what it needs when it begins."""

import itertools
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from steps import Step, Work

SHIPPED = ("vit", "bf16", "int8", "fp8", "topk", "tome", "dynamicvit", "avit", "slim", "int4", "topk_int8", "tome_bf16")
LEARNED = ("vit", "topk", "tome", "dynamicvit", "avit", "qat", "distill", "slim", "narrow", "topk_distill")
GRAPHED = ("bf16", "int8", "fp8", "topk")
GRAPHS, COMPILE = "torch.cudagraphs", "torch.compile"
Rows = dict[str, tuple[str, ...]]  # runtime -> variants, the first of which is what the others are compared with
NUMBERS: Rows = {"torch": ("vit", "bf16", "int8", "fp8"), GRAPHS: ("bf16", "int8", "fp8")}
TOKENS: Rows = {"torch": ("bf16", "topk_bf16", "tome_bf16", "dynamicvit_bf16", "avit_bf16", "slim_bf16")}
COMPILED = ("bf16", "int8", "fp8")
SIZES = (1, 32, 256)
PACKAGES = ("timm", "torchvision", "typer")  # of the trainings
ONNX = ("onnx", "onnxscript")


@dataclass(frozen=True)
class Setup:
    """What all steps share.

    Args:
        artifacts: folder for files of models, which are not kept.
        images: archive of them, where there is one.
    """

    out: Path
    artifacts: Path
    device: str
    threads: int
    images: Path | None
    miniature: bool


def list_steps(setup: Setup) -> dict[Step, Work]:
    """All of them, the most valuable first."""

    def do(place: str, *args: Any) -> Work:
        return partial(_call, place, setup, args)

    found = {Step("doctor", 60): do("gpu_doctor:examine")}
    found |= {Step(f"infer {name}", 40): do("gpu_smoke:infer", name, "torch") for name in SHIPPED}
    found |= {Step(f"train {name}", 60): do("gpu_smoke:train", name, "fp32") for name in LEARNED}
    found[Step("train vit in bf16", 40)] = do("gpu_smoke:train", "vit", "bf16")
    if setup.device == "cuda":
        found |= {Step(f"infer {name} as a CUDA graph", 40): do("gpu_smoke:infer", name, GRAPHS) for name in GRAPHED}
        for runtime in ("onnxruntime", "tensorrt"):
            found[Step(f"infer vit in {runtime}", 90, needs=(*ONNX, runtime))] = do("gpu_smoke:infer", "vit", runtime)
    if setup.miniature:
        rows = {"torch": ("vit", "topk")}
        found[Step("rows tiny numbers")] = do("gpu_rows:measure", "tiny", "numbers", rows, (1, 2))
    else:
        for geometry in ("deit-s", "vit-b"):
            for kind, rows in (("numbers", NUMBERS), ("tokens", TOKENS)):
                step = Step(f"rows {geometry} {kind}", 150, least_s=40)
                found[step] = do("gpu_rows:measure", geometry, kind, rows, SIZES)
    least = 1 if setup.miniature else 20
    found[Step("timing: the same twice", 60, least_s=least)] = do("gpu_timing:compare", "same")
    found[Step("timing: a tenth more work", 60, least_s=least)] = do("gpu_timing:compare", "work")
    least = 1 if setup.miniature else 40
    found[Step("training against timm", 120, least_s=least, needs=PACKAGES)] = do("gpu_training:compare")
    if not setup.miniature:  # each is compiled for about a minute
        for size, name in itertools.product((1, 256), COMPILED):
            rows = {"torch": ("bf16",), COMPILE: (name,)}
            step = Step(f"rows deit-s {name} compiled, batch {size}", 150, least_s=70)
            found[step] = do("gpu_rows:measure", "deit-s", "compiled", rows, (size,))
    found[Step("training CIFAR-10", least_s=least, needs=PACKAGES, reserved=True)] = do("gpu_training:learn")
    return found


def _call(place: str, setup: Setup, args: tuple[Any, ...], seconds: float) -> Mapping[str, Any] | None:
    """`place` as in module:function."""
    return pkgutil.resolve_name(place)(setup, *args, seconds)
