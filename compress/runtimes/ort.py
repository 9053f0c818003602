"""ONNX Runtime. The artifact is an ONNX file; int8 variants are QDQ graphs that it turns into integer kernels.

Of a Vision Transformer our own int8 says what such a graph holds; of other architectures `ort_int8` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.runtimes.base import BuildInputs, Inspection, Runtime, describe_images

if TYPE_CHECKING:
    from compress.checkpoints.checkpoint import Checkpoint
    from compress.runtimes.ort_session import OrtSession


class Ort(Runtime):
    name, packages, engine = "onnxruntime", ("onnxruntime",), "compress.runtimes.ort_session"
    suffix, side_files = ".onnx", {".onnx": ".onnx.data"}
    dtypes = frozenset({"fp32", "int8", "int4"})
    dynamic_granularities = ("tensor", "token")
    quantizes = pads_ragged = True
    batch_shapes = ("dynamic", "fixed")

    def dtypes_on(self, device: str) -> frozenset[str]:
        return frozenset({"fp32"}) if device == "cuda" else self.dtypes  # levels become float in front of its kernels

    def devices(self) -> tuple[str, ...]:
        from compress.runtimes.ort_session import usable_devices

        return usable_devices()

    def build(self, inputs: BuildInputs, path: Path) -> None:
        from compress import variant
        from compress.checkpoints.user_models import Wrapped
        from compress.exporters.onnx import export_onnx

        if isinstance(inputs.model, Wrapped) and inputs.which.dtype == "int8":
            from compress.runtimes.ort_int8 import build_int8

            build_int8(inputs, path)
            return
        converted = variant.convert(inputs.model, inputs.which.methods)
        export_onnx(converted, path, inputs.images, inputs.content)

    def write_usage(self, path: Path, content: Checkpoint, threads: int, device: str = "cpu") -> str:
        from compress.runtimes.ort_session import list_providers

        return _write_usage(path, content, threads, list_providers(device))

    def load(self, path: Path, device: str, threads: int, batch_size: int | None = None) -> OrtSession:
        from compress.runtimes.ort_session import BoundSession, OrtSession

        return (OrtSession if device == "cpu" else BoundSession)(path, device, threads, batch_size)

    def inspect(self, path: Path, batch_size: int | None = None, device: str = "cpu") -> Inspection:
        if device == "cuda":
            return _inspect_on_cuda(path)
        from compress.runtimes.ort_graph import inspect

        return inspect(path, batch_size)


class TensorRT(Ort):
    """TensorRT as ONNX Runtime brings it, for float models: its integers have no zero points, and ours do."""

    name, extra = "tensorrt", "gpu"
    environment = {"NVIDIA_TF32_OVERRIDE": "0"}  # noqa: RUF012  a row that says fp32 is fp32
    dtypes = frozenset({"fp32", "bf16"})
    fallback_dtypes = ("fp32", "bf16")
    dynamic_granularities = ()
    quantizes = False
    batch_shapes = ("fixed",)
    static_shapes = compiles_long = True

    def dtypes_on(self, device: str) -> frozenset[str]:
        return self.dtypes

    def devices(self) -> tuple[str, ...]:
        import onnxruntime

        from compress.runtimes.ort_session import TENSORRT

        return ("cuda",) if TENSORRT in onnxruntime.get_available_providers() else ()

    def build(self, inputs: BuildInputs, path: Path) -> None:
        from compress.exporters.onnx import convert_for_onnx, export_onnx

        converted = convert_for_onnx(inputs.model, inputs.which, inputs.content)
        export_onnx(converted, path, inputs.images, inputs.content)

    def write_usage(self, path: Path, content: Checkpoint, threads: int, device: str = "cuda") -> str:
        from compress.runtimes.ort_session import TensorRTSession

        return _write_usage(path, content, threads, TensorRTSession.list_providers(path, device))

    def load(self, path: Path, device: str, threads: int, batch_size: int | None = None) -> OrtSession:
        from compress.runtimes.ort_session import TensorRTSession

        return TensorRTSession(path, device, threads, batch_size)

    def inspect(self, path: Path, batch_size: int | None = None, device: str = "cpu") -> Inspection:
        from compress.runtimes.ort_session import allows_bf16

        notes = ("TensorRT chooses for each layer between bf16 and fp32, and does not tell which",)
        return Inspection("bf16", notes=notes) if allows_bf16(path) else Inspection("fp32")


def _write_usage(path: Path, content: Checkpoint, threads: int, providers: Sequence[object]) -> str:
    return (
        f"import onnxruntime\n{describe_images(content)}\noptions = onnxruntime.SessionOptions()\n"
        f"options.intra_op_num_threads = {threads}\n"
        f"session = onnxruntime.InferenceSession({str(path)!r}, options, providers={[*providers]!r})\n"
        "(logits,) = session.run(None, {'images': images})\n"
    )


def _inspect_on_cuda(path: Path) -> Inspection:
    """Its kernels there are not listed; none of them multiplies our integers."""
    import onnx

    from compress.exporters.onnx import has_integers

    if not has_integers(onnx.load(path, load_external_data=False)):
        return Inspection("fp32")
    return Inspection("int8-simulated", 0.0, ("on CUDA ONNX Runtime computes the quantized model in float",))
