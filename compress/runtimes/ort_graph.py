"""A graph as ONNX Runtime runs it: which kernels it chose, what they multiply, and how long each takes."""

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

from compress.runtimes.base import Inspection, overflow_notes
from compress.runtimes.ort_session import open_session, set_options

if TYPE_CHECKING:
    import onnx

MATRIX_KERNELS = frozenset({"MatMul", "FusedMatMul", "Gemm", "MatMulNBits"})
FOUR_BITS = "MatMulNBits"  # weights of 4 bits; its inputs are float, rounded to int8 inside where it may
INTEGER_KERNELS = frozenset(
    {"MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm", "MatMulInteger"}
)
INT8_INSIDE = 4  # its `accuracy_level` that allows so
CONVOLUTIONS = frozenset({"Conv", "FusedConv"})
INTEGER_CONVOLUTIONS = frozenset({"QLinearConv", "ConvInteger"})


@dataclass(frozen=True)
class Kernel:
    """One node of the optimized graph as it ran on a CPU."""

    name: str
    op: str
    seconds: float  # median over the calls
    macs: int  # multiply-accumulates of one call; 0 where it is no product
    integer: bool  # whether it multiplies integers, or with them
    inner: int = 0  # length of the dot products; 0 where it is no product
    columns: int = 0  # outputs (last dimension, or channels) that share an input


def profile(
    path: Path, images: np.ndarray, *, threads: int = 1, calls: int = 1, batch_size: int | None = None
) -> list[Kernel]:
    """Runs a model under ONNX Runtime's own profiler: every kernel with its shapes as they occurred, and its time.

    Args:
        images: (B, C, height, width).
        calls: counted ones; one more runs before them.
        batch_size: for which the graph is compiled; None: any.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = set_options(threads)
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = open_session(path, options, batch_size)
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
    graph = optimise_graph(path)
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


def inspect(path: Path, batch_size: int | None = None) -> Inspection:
    """Reads from the optimized graph, and from one run of it, in which dtypes the kernels work; see `Runtime`."""
    graph = optimise_graph(path, batch_size)
    integer, floating = list_quantized_products(graph)
    packed = [node for node in graph.node if node.op_type == FOUR_BITS]
    levels = [each.i for node in packed for each in node.attribute if each.name == "accuracy_level"]
    if levels.count(INT8_INSIDE) < len(packed):
        return Inspection("int4", notes=("weights of 4 bits, activations in float",))
    if not packed + integer + floating:
        return Inspection("fp32")
    share = compute_integer_share(profile(path, make_example(path, batch_size or 1), batch_size=batch_size))
    if packed:
        return Inspection("int4", share, ("weights of 4 bits, activations rounded to int8 on their way in",))
    left = (f"{len(floating)} of {len(integer + floating)} quantized products run in float",) if floating else ()
    return Inspection("int8" if integer else "int8-simulated", share, (*left, *overflow_notes()))


def compute_integer_share(kernels: Sequence[Kernel]) -> float:
    """Share of the multiply-accumulates that integer kernels did."""
    total = sum(kernel.macs for kernel in kernels)
    return sum(kernel.macs for kernel in kernels if kernel.integer) / total if total else 0.0


def make_example(path: Path, batch_size: int = 1) -> np.ndarray:
    """Noise of the shape a model takes (B, C, height, width), the same at every call.

    Raises:
        ValueError: it takes something else than one batch of images of a known size.
    """
    inputs = open_session(path, set_options(1)).get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or not inputs[0].shape:
        asked = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
        raise ValueError(f"it takes {asked or 'nothing'}, where one batch of float32 images is expected")
    batch, *rest = inputs[0].shape
    if not all(isinstance(size, int) and size > 0 for size in rest):
        raise ValueError(f"the size of its images is free ({inputs[0].name} {inputs[0].shape})")
    shape = (batch if isinstance(batch, int) else batch_size, *rest)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def count_integer_products(path: Path) -> tuple[int, int]:
    """How many quantized matrix products ONNX Runtime runs in integers, and how many it left in float."""
    integer, floating = list_quantized_products(optimise_graph(path))
    return len(integer), len(floating)


def list_quantized_products(graph: onnx.GraphProto) -> tuple[list[str], list[str]]:
    """Names of the quantized matrix products that an optimized graph runs in integers, and of those left in float."""
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    integer, floating = INTEGER_KERNELS | INTEGER_CONVOLUTIONS, MATRIX_KERNELS | CONVOLUTIONS
    return [node.name for node in graph.node if node.op_type in integer], [
        node.name for node in graph.node if node.op_type in floating and _dequantized(node, dequantized)
    ]


def optimise_graph(path: Path, batch_size: int | None = None) -> onnx.GraphProto:
    """The graph of a model as ONNX Runtime runs it on a CPU."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        options = set_options(1)
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        if path.with_suffix(
            ".onnx.data"
        ).is_file():  # its weights lie outside, and would not fit into the other one either
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.data")
        open_session(path, options, batch_size)
        return onnx.load(options.optimized_model_filepath, load_external_data=False).graph


def _dequantized(node: onnx.NodeProto, dequantized: set[str]) -> bool:
    return len(node.input) > 1 and node.input[1] in dequantized
