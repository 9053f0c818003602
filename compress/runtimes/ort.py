"""ONNX Runtime. The artifact is an ONNX file; int8 variants are QDQ graphs that it turns into integer kernels.

Of a Vision Transformer our own int8 says what such a graph holds; of other architectures `ort_int8` does.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from compress.measure.environment import cpu_name
from compress.measure.load import gpu_name
from compress.runtimes.base import Inspection, Runtime, Session, overflow_notes

if TYPE_CHECKING:
    import onnx
    from torch import Tensor

    from baselines.classifier import Classifier
    from compress.checkpoint import Checkpoint
    from compress.variant import Variant

MATRIX_KERNELS = frozenset({"MatMul", "FusedMatMul", "Gemm", "MatMulNBits"})
FOUR_BITS = "MatMulNBits"  # weights of 4 bits; its inputs are float, rounded to int8 inside where it may
INTEGER_KERNELS = frozenset(
    {"MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm", "MatMulInteger"}
)
INT8_INSIDE = 4  # its `accuracy_level` that allows so
CONVOLUTIONS = frozenset({"Conv", "FusedConv"})
INTEGER_CONVOLUTIONS = frozenset({"QLinearConv", "ConvInteger"})
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
        from compress.export import export_onnx
        from compress.modules import Wrapped

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


def options(threads: int) -> onnxruntime.SessionOptions:
    """Threads as asked, idle ones asleep: spinning would steal time from whatever is measured next."""
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads, chosen.inter_op_num_threads = threads, 1
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "0")
    chosen.log_severity_level = 3
    return chosen


@dataclass(frozen=True)
class Kernel:
    """One node of the optimised graph as it ran on a CPU."""

    name: str
    op: str
    seconds: float  # median over the calls
    macs: int  # multiply-accumulates of one call; 0 where it is no product
    integer: bool  # whether it multiplies integers, or with them
    inner: int = 0  # length of the dot products; 0 where it is no product
    columns: int = 0  # outputs (last dimension, or channels) that share an input


def profile(path: Path, images: np.ndarray, *, threads: int = 1, calls: int = 1) -> list[Kernel]:
    """Runs a model under ONNX Runtime's own profiler: every kernel with its shapes as they occurred, and its time.

    Args:
        images: (B, C, height, width).
        calls: counted ones; one more runs before them.
    """
    with tempfile.TemporaryDirectory() as folder:
        chosen = options(threads)
        chosen.enable_profiling, chosen.profile_file_prefix = True, str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(path, chosen, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: images}
        for _ in range(calls + 1):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    runs: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            runs.setdefault(event["args"]["node_index"] + event["name"], []).append(event)
    hidden = any(each[0]["args"]["op_name"] in INTEGER_CONVOLUTIONS for each in runs.values())
    weights = _convolution_weights(path) if hidden else {}
    return [_kernel(each[len(each) // (calls + 1) :], weights) for each in runs.values()]


def _convolution_weights(path: Path) -> dict[str, list[int]]:
    """Shapes of the weights of integer convolutions by node name: they are packed, and the profiler tells them not."""
    graph = optimised(path)
    shapes = {each.name: list(each.dims) for each in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "QLinearConv"]
    return {node.name: shapes[node.input[3]] for node in nodes if node.input[3] in shapes}


def _kernel(events: Sequence[dict[str, Any]], weights: Mapping[str, list[int]]) -> Kernel:
    """The counted runs of one node -> what it was.

    Args:
        weights: shapes of those of convolutions that do not tell theirs.
    """
    facts, name = events[0]["args"], events[0]["name"].removesuffix("_kernel_time")
    op, seconds = facts["op_name"], statistics.median(event["dur"] for event in events) / 1e6
    data, *others = (shape for each in facts["input_type_shape"] or [{"": []}] for shape in each.values())
    out = next((shape for each in facts["output_type_shape"] for shape in each.values()), [])
    inner = columns = 0
    if op in MATRIX_KERNELS | INTEGER_KERNELS:
        transposed = len(data) >= 2 and len(out) >= 2 and data[-2] != out[-2]
        inner, columns = data[-2] if transposed else data[-1], out[-1]
    elif op in CONVOLUTIONS | INTEGER_CONVOLUTIONS:
        weight = weights.get(name) or next((shape for shape in others if len(shape) == len(data)), None)
        inner, columns = (math.prod(weight[1:]), weight[0]) if weight else (0, 0)
    return Kernel(
        name=name,
        op=op,
        seconds=seconds,
        macs=math.prod(out) * inner,
        integer=op in INTEGER_KERNELS | INTEGER_CONVOLUTIONS | {FOUR_BITS},
        inner=inner,
        columns=columns,
    )


def integer_share(kernels: Sequence[Kernel]) -> float:
    """Share of the multiply-accumulates that integer kernels did."""
    total = sum(kernel.macs for kernel in kernels)
    return sum(kernel.macs for kernel in kernels if kernel.integer) / total if total else 0.0


def example(path: Path, batch_size: int = 1) -> np.ndarray:
    """Noise of the shape a model takes (B, C, height, width), the same at every call.

    Raises:
        ValueError: it takes something else than one batch of images of a known size.
    """
    session = onnxruntime.InferenceSession(path, options(1), providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or not inputs[0].shape:
        asked = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
        raise ValueError(f"it takes {asked or 'nothing'}, where one batch of float32 images is expected")
    batch, *rest = inputs[0].shape
    if not all(isinstance(size, int) and size > 0 for size in rest):
        raise ValueError(f"the size of its images is free ({inputs[0].name} {inputs[0].shape})")
    shape = (batch if isinstance(batch, int) else batch_size, *rest)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def integer_products(path: Path) -> tuple[int, int]:
    """How many quantised matrix products ONNX Runtime runs in integers, and how many it left in float."""
    names = quantised_products(path)
    return len(names[0]), len(names[1])


def quantised_products(path: Path) -> tuple[list[str], list[str]]:
    """Names of the quantised matrix products that ONNX Runtime runs in integers, and of those it left in float."""
    graph = optimised(path)
    dequantised = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    integer, floating = INTEGER_KERNELS | INTEGER_CONVOLUTIONS, MATRIX_KERNELS | CONVOLUTIONS
    return [node.name for node in graph.node if node.op_type in integer], [
        node.name for node in graph.node if node.op_type in floating and _dequantised(node, dequantised)
    ]


def optimised(path: Path) -> onnx.GraphProto:
    """The graph of a model as ONNX Runtime runs it on a CPU."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        chosen = options(1)
        chosen.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(path, chosen, providers=["CPUExecutionProvider"])
        return onnx.load(chosen.optimized_model_filepath).graph


def _dequantised(node: onnx.NodeProto, dequantised: set[str]) -> bool:
    return len(node.input) > 1 and node.input[1] in dequantised


RUNTIME = Ort()
