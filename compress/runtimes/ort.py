"""ONNX Runtime. The artifact is an ONNX file; int8 variants are QDQ graphs that it turns into integer kernels.

Of a Vision Transformer our own int8 says what such a graph holds; of other architectures `ort_int8` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from compress.measure.environment import cpu_name
from compress.measure.load import gpu_name
from compress.runtimes.base import Inspection, Runtime, Session, overflow_notes
from compress.runtimes.ort_graph import (
    FOUR_BITS,
    INT8_INSIDE,
    Kernel,
    example,
    integer_products,
    integer_share,
    optimised,
    options,
    profile,
    quantised_products,
)

if TYPE_CHECKING:
    import onnx
    from torch import Tensor

    from baselines.classifier import Classifier
    from compress.checkpoints.checkpoint import Checkpoint
    from compress.variant import Variant

__all__ = ["RUNTIME", "Kernel", "example", "integer_products", "profile", "quantised_products"]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OrtSession(Session):
    def __init__(self, path: Path, device: str, threads: int):
        self.session = onnxruntime.InferenceSession(path, options(threads), providers=[PROVIDERS[device]])
        self.input_name = self.session.get_inputs()[0].name
        self.device_name = cpu_name() if device == "cpu" else gpu_name()

    def put(self, images: np.ndarray) -> Any:
        return {self.input_name: np.ascontiguousarray(images)}

    def run(self, images: Any) -> Any:
        return self.session.run(None, images)[0]

    def get(self, logits: Any) -> np.ndarray:
        return logits


class BoundSession(OrtSession):
    """Inputs and outputs stay on the device, so that copying them is not timed."""

    def __init__(self, path: Path, device: str, threads: int):
        super().__init__(path, device, threads)
        self.device = device

    def put(self, images: np.ndarray) -> onnxruntime.IOBinding:
        binding = self.session.io_binding()
        there = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(images), self.device, 0)
        binding.bind_ortvalue_input(self.input_name, there)
        binding.bind_output(self.session.get_outputs()[0].name, self.device)
        return binding

    def run(self, images: onnxruntime.IOBinding) -> onnxruntime.IOBinding:
        self.session.run_with_iobinding(images)
        images.synchronize_outputs()
        return images

    def get(self, logits: onnxruntime.IOBinding) -> np.ndarray:
        return logits.copy_outputs_to_cpu()[0]

    def peak_memory_bytes(self) -> int | None:
        return None  # ONNX Runtime does not tell what it holds on a GPU


class Ort(Runtime):
    name, suffix, padded = "onnxruntime", ".onnx", True
    numbers = frozenset({"fp32", "int8", "int4"})
    dynamic = ("tensor", "token")
    quantises = True

    def devices(self) -> tuple[str, ...]:
        available = onnxruntime.get_available_providers()
        return tuple(device for device, provider in PROVIDERS.items() if provider in available)

    def build(
        self,
        model: Classifier,
        which: Variant,
        content: Checkpoint,
        path: Path,
        images: Tensor,
        calibration: Sequence[Tensor] = (),
    ) -> None:
        from compress import variant
        from compress.checkpoints.modules import Wrapped
        from compress.export.onnx import export_onnx

        if isinstance(model, Wrapped) and which.numbers == "int8":
            from compress.runtimes.ort_int8 import build_int8

            build_int8(model, which, content, path, images, calibration)
            return
        export_onnx(variant.convert(model, which.methods), path, images, content)

    def load(self, path: Path, device: str, threads: int) -> OrtSession:
        return (OrtSession if device == "cpu" else BoundSession)(path, device, threads)

    def inspect(self, path: Path) -> Inspection:
        """Reads from the optimised graph, and from one run of it, which numbers the kernels work in."""
        packed = [node for node in optimised(path).node if node.op_type == FOUR_BITS]
        if packed:
            return _inspect_int4(path, packed)
        integer, floating = integer_products(path)
        if not integer + floating:
            return Inspection("fp32")
        share = integer_share(profile(path, example(path)))
        left = (f"{floating} of {integer + floating} quantised products run in float",) if floating else ()
        return Inspection("int8" if integer else "int8-simulated", share, (*left, *overflow_notes()))


def _inspect_int4(path: Path, packed: Sequence[onnx.NodeProto]) -> Inspection:
    levels = [attribute.i for node in packed for attribute in node.attribute if attribute.name == "accuracy_level"]
    if levels.count(INT8_INSIDE) < len(packed):
        return Inspection("int4", notes=("weights of 4 bits, activations in float",))
    kernels = profile(path, example(path))
    share = sum(kernel.macs for kernel in kernels if kernel.op == FOUR_BITS) / sum(kernel.macs for kernel in kernels)
    return Inspection("int4", share, ("weights of 4 bits, activations rounded to int8 on their way in",))


RUNTIME = Ort()
