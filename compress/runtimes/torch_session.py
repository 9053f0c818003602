"""Models in torch, eager and compiled, and what their kernels multiply."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from baselines.classifier import Classifier
from baselines.vit import VisionTransformer
from compress import loading, variant
from compress.measure import cost
from compress.measure.environment import configure_allocator, cpu_name
from compress.quantization.float8 import Float8Linear, find_unfit, in_hardware
from compress.quantization.products import (
    CUDA_MULTIPLE,
    CUDA_ROWS,
    integer_macs,
    multiplies_exactly,
    use_integer_kernels,
)
from compress.runtimes.base import Inspection, Session

WARM_UP = 3  # passes before one is recorded


def kernel_dtypes(device: str | None = None) -> frozenset[str]:
    """In which torch's kernels multiply on a device, or on some device of this machine."""
    dtypes = {"fp32", "bf16"}
    cuda = torch.cuda.is_available() and device != "cpu"
    if cuda and in_hardware():
        dtypes.add("fp8")
    if cuda or (device != "cuda" and multiplies_exactly(torch.device("cpu"))):
        dtypes.add("int8")
    return frozenset(dtypes)


def restore(path: Path, device: str, threads: int) -> Classifier:
    """The converted model of a checkpoint, with integer products where the device has them."""
    torch.set_num_threads(threads)
    configure_allocator()
    model, which, content = loading.restore(path)
    if not content.converted:
        model = variant.convert(model, which.methods)
    use_integer_kernels(model, torch.device(device))
    return model


class EagerSession(Session):
    def __init__(self, model: Classifier, device: str | torch.device):
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.dtype = next(model.parameters()).dtype  # inputs come in it, so that converting them is not timed
        self.device_name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else cpu_name()

    def put(self, images: np.ndarray) -> Any:
        return torch.from_numpy(images).to(self.device, self.dtype)

    @torch.inference_mode()
    def run(self, images: Any) -> Any:
        return self._finish(self.model(images))

    def get(self, logits: Any) -> np.ndarray:
        return logits.float().cpu().numpy()

    def peak_memory_bytes(self) -> int | None:
        on_gpu = self.device.type == "cuda"
        return torch.cuda.max_memory_allocated(self.device) if on_gpu else super().peak_memory_bytes()

    def _finish(self, logits: torch.Tensor) -> torch.Tensor:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return logits


class CompiledSession(EagerSession):
    def __init__(self, model: Classifier, device: str | torch.device):
        super().__init__(model, device)
        compile_model(self.model, "reduce-overhead" if self.device.type == "cuda" else None)

    @torch.no_grad()  # freezing does not happen in inference mode
    def run(self, images: Any) -> Any:
        return self._finish(self.model(images))


class GraphSession(EagerSession):
    """Replays passes that were recorded. What `run` gives is overwritten by the next batch of that shape."""

    def __init__(self, model: Classifier, device: str | torch.device):
        super().__init__(model, device)
        self.recorded: dict[torch.Size, tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]] = {}

    @torch.inference_mode()
    def run(self, images: Any) -> Any:
        if images.shape not in self.recorded:
            self.recorded[images.shape] = record_pass(self.model, images)
        graph, inputs, logits = self.recorded[images.shape]
        inputs.copy_(images)
        graph.replay()
        return self._finish(logits)


def record_pass(model: nn.Module, images: torch.Tensor) -> tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]:
    """A forward pass as a CUDA graph, the tensor that it reads and the one that it writes.

    Passes before it, on another stream as torch asks, let libraries set up what may not be set up while one is
    recorded. Nothing in it may wait for the device.
    """
    inputs, graph, aside = images.clone(), torch.cuda.CUDAGraph(), torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            model(inputs)
    torch.cuda.current_stream().wait_stream(aside)
    with torch.cuda.graph(graph):
        logits = model(inputs)
    return graph, inputs, logits


def compile_model(model: nn.Module, mode: str | None = None) -> None:
    """Has a model compiled for each shape that comes; without a mode no CUDA graphs, whose kernels profilers miss."""
    import torch._dynamo
    import torch._inductor.config

    torch._inductor.config.freezing = True
    torch.compiler.assume_constant_result(in_hardware)
    torch._dynamo.config.recompile_limit = 64  # each timed batch size is a compilation of its own
    model.compile(dynamic=False, mode=mode)


def can_compile(device: str) -> bool:
    """Whether the compiler that torch needs is here: of C++ for a CPU, Triton for CUDA."""
    if device == "cuda":
        from torch.utils._triton import has_triton

        return has_triton()
    usual = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(usual) and not subprocess.run([usual, "--version"], capture_output=True, check=False).returncode:
        return True  # what torch looks for too, but only after seconds of imports
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return bool(get_cpp_compiler())
    except InvalidCxxCompiler:
        return False


def inspect(path: Path, device: str, compile_: Callable[[nn.Module], None] | None = None) -> Inspection:
    """What torch's kernels do with a checkpoint.

    Args:
        device: on which the model runs.
        compile_: has it compiled.
    """
    model, which, content = loading.restore(path)
    dtype, notes = which.dtype, ()
    if not isinstance(model, VisionTransformer):
        return Inspection(dtype)
    if dtype == "int8":
        return _inspect_integers(
            model if content.converted else variant.convert(model, which.methods), torch.device(device), compile_
        )
    if dtype == "fp8":
        names = find_unfit(model.encoder.blocks)
        notes = (f"in bf16, since their sizes are no multiples of 16: {_list_few(names)}",) if names else ()
        if not any(isinstance(module, Float8Linear) for module in model.modules()):
            return Inspection("bf16", notes=notes)
    if dtype in ("fp32", "bf16") or (dtype == "fp8" and device == "cuda" and in_hardware()):
        return Inspection(dtype, notes=notes)
    note = f"torch computes the quantized model in float: its accuracy is real, its speed is not {dtype}'s"
    return Inspection(f"{dtype}-simulated", None if dtype == "fp8" else 0.0, (note, *notes))


def _inspect_integers(
    model: VisionTransformer, device: torch.device, compile_: Callable[[nn.Module], None] | None
) -> Inspection:
    """Runs images through an int8 model, and counts what integer kernels did of them."""
    config = model.config
    count = CUDA_ROWS if device.type == "cuda" else 1  # so many that no product has rows that were only added
    noise = torch.randn(count, config.channels, *config.image_size, generator=torch.Generator().manual_seed(0))
    left, images = use_integer_kernels(model, device), noise.to(device)
    total = cost.measure_batches(model.to(device), [images]).per_image.mean().item() * count
    if compile_ is not None:
        compile_(model)
    with torch.no_grad():
        model(images)
        share = integer_macs(lambda: model(images)) / total
    why = (
        f"sizes are no multiples of {CUDA_MULTIPLE}" if multiplies_exactly(device) else "integer products overflow here"
    )
    notes = (f"simulated in float, since {why}: {_list_few(left)}",) if left else ()
    return Inspection("int8" if share else "int8-simulated", share, notes)


def _list_few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{', '.join(names[:4])}{more}"
