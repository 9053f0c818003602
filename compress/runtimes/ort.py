"""ONNX Runtime. The artifact is an ONNX file; int8 variants are QDQ graphs that it turns into integer kernels."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from compress.measure.environment import cpu_name
from compress.runtimes.base import Runtime, Session

if TYPE_CHECKING:
    import onnx
    from torch import Tensor

    from baselines.vit import VisionTransformer
    from compress.checkpoint import Checkpoint
    from compress.variant import Variant

INTEGER_KERNELS = frozenset({"MatMulIntegerToFloat", "QLinearMatMul", "QGemm", "MatMulInteger"})
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OrtSession(Session):
    def __init__(self, path: Path, device: str, threads: int):
        self.session = onnxruntime.InferenceSession(path, options(threads), providers=[PROVIDERS[device]])
        self.device_name = cpu_name() if device == "cpu" else "CUDA"

    def put(self, images: np.ndarray) -> Any:
        return {"images": np.ascontiguousarray(images)}

    def run(self, images: Any) -> Any:
        return self.session.run(None, images)[0]

    def get(self, logits: Any) -> np.ndarray:
        return logits


class Ort(Runtime):
    name, suffix, simulates_integers, group_size = "onnxruntime", ".onnx", False, None

    def devices(self) -> tuple[str, ...]:
        available = onnxruntime.get_available_providers()
        return tuple(device for device, provider in PROVIDERS.items() if provider in available)

    def build(self, model: VisionTransformer, which: Variant, content: Checkpoint, path: Path, images: Tensor) -> None:
        from compress import variant
        from compress.export import export_onnx

        export_onnx(variant.convert(model, which.methods), path, images, content)

    def load(self, path: Path, device: str, threads: int) -> OrtSession:
        return OrtSession(path, device, threads)

    def inspect(self, path: Path) -> tuple[str, tuple[str, ...]]:
        """Reads from the optimised graph which numbers the kernels work in."""
        integer, floating = integer_products(path)
        executed = "int8" if integer else "int8-simulated" if floating else "fp32"
        if not floating:
            return executed, ()
        share = integer / (integer + floating)
        return executed, (f"{share:.0%} of the quantised products run in integer kernels, the others in float",)


def options(threads: int) -> onnxruntime.SessionOptions:
    """Threads as asked, idle ones asleep: spinning would steal time from whatever is measured next."""
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads, chosen.inter_op_num_threads = threads, 1
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "0")
    chosen.log_severity_level = 3
    return chosen


def integer_products(path: Path) -> tuple[int, int]:
    """How many quantised matrix products ONNX Runtime runs in integers, and how many it left in float."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        chosen = options(1)
        chosen.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(path, chosen, providers=["CPUExecutionProvider"])
        graph = onnx.load(chosen.optimized_model_filepath).graph
    integer = sum(node.op_type in INTEGER_KERNELS for node in graph.node)
    return integer, sum(_weight_dequantised(node, graph) for node in graph.node)


def _weight_dequantised(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    if node.op_type not in ("MatMul", "Gemm", "FusedMatMul"):
        return False
    return any(other.op_type == "DequantizeLinear" and node.input[1] in other.output for other in graph.node)


RUNTIME = Ort()
