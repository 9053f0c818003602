"""ONNX Runtime. The artifact is an ONNX file; int8 variants are QDQ graphs that it turns into integer kernels.

Of a Vision Transformer our own int8 says what such a graph holds; of other architectures `ort_int8` does.
"""

from __future__ import annotations

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
        provider = f"{device.upper()}ExecutionProvider"
        return (
            f"import onnxruntime\n{describe_images(content)}\noptions = onnxruntime.SessionOptions()\n"
            f"options.intra_op_num_threads = {threads}\n"
            f"session = onnxruntime.InferenceSession({str(path)!r}, options, providers=[{provider!r}])\n"
            "(logits,) = session.run(None, {'images': images})\n"
        )

    def load(self, path: Path, device: str, threads: int, batch_size: int | None = None) -> OrtSession:
        from compress.runtimes.ort_session import BoundSession, OrtSession

        return (OrtSession if device == "cpu" else BoundSession)(path, device, threads, batch_size)

    def inspect(self, path: Path, batch_size: int | None = None) -> Inspection:
        from compress.runtimes.ort_graph import inspect

        return inspect(path, batch_size)
