"""One integer layer as torch simulates it and as an ONNX file, and how far an engine may be from torch.

Legend: B images, N tokens, R = B N rows, I inputs and O outputs of a layer.
"""

import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import strategies as st
from onnx.helper import make_node, make_tensor_value_info
from torch import Tensor, nn

from baselines.cpu import cpu_flags
from compress import runtimes
from compress.doctor.machine import FASTER_INT8
from compress.quantization.linear import Activations, QuantLinear
from compress.quantization.operators import bounds, dynamic_range, row_scale
from compress.runtimes.client import make_environment

KINDS: tuple[Activations, ...] = ("static", "token", "tensor")
LIMITS = [(-1.0, 1.0), (0.0, 3.0), (-3.0, 0.0), (-0.1, 4.0)]  # uint8 zero points 128, 0, 255 and 6
SHAPES = [(1, 1, 1, 1), (1, 1, 8, 3), (2, 17, 32, 96), (1, 5, 301, 33), (3, 2, 64, 8)]  # B, N, I, O
# Without VNNI, engines on x86 add pairs of products of bytes in 16 bits: weights beyond level 64 overflow there.
EXACT = platform.machine() not in ("x86_64", "AMD64") or bool(cpu_flags() & FASTER_INT8)
needs_exact = pytest.mark.skipif(not EXACT, reason="sums of int8 products overflow on this processor")


@dataclass(frozen=True)
class Case:
    """A packed layer, with an input (B, N, I) that is hard on it."""

    layer: QuantLinear
    x: Tensor


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Layers of any shape and mode, with outliers, and channels that are constant or all zero."""
    shape, kind, signed = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(KINDS)), draw(st.booleans())
    outlier, limits = draw(st.sampled_from([0.0, 30.0, -1e4])), draw(st.sampled_from(LIMITS))
    torch.manual_seed(draw(st.integers(0, 10_000)))
    batch, tokens, inputs, outputs = shape
    linear = nn.Linear(inputs, outputs)
    with torch.no_grad():
        linear.weight[0] = 0
        linear.weight[-1] *= 1e3
    layer = QuantLinear(linear, kind, signed)
    layer.weight_scale *= 1 if EXACT else 2
    if layer.input is not None:
        layer.input.set_range(*limits)
    layer.pack_()
    x = torch.randn(batch, tokens, inputs) * 2
    x[..., inputs // 2] = 0.7  # a constant channel
    x[..., inputs // 3] = 0
    x[0, 0, 0] += outlier
    return Case(layer.eval(), x)


def write(layer: QuantLinear, path: Path) -> Path:
    """The packed layer as an ONNX file; its input is `x`."""
    nodes, tensors = {"static": _static, "token": _token, "tensor": _tensor}[layer.activations](layer)
    tensors |= {"w": layer.weight, "ws": layer.weight_scale}
    if layer.bias is not None:
        tensors["b"] = layer.bias
        nodes.append(make_node("Add", ["m", "b"], ["y"]))
    inputs, outputs = layer.weight.shape
    ends = (
        make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", "N", size])
        for name, size in (("x", inputs), (nodes[-1].output[0], outputs))
    )
    values = [onnx.numpy_helper.from_array(value.detach().numpy(), name) for name, value in tensors.items()]
    graph = onnx.helper.make_graph(nodes, "layer", [next(ends)], [next(ends)], values)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def _static(layer: QuantLinear) -> tuple[list[onnx.NodeProto], dict[str, Tensor]]:
    assert layer.input is not None
    return [
        make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        make_node("DequantizeLinear", ["w", "ws"], ["dw"], axis=1),
        make_node("MatMul", ["d", "dw"], ["m"]),
    ], {"s": layer.input.scale, "z": layer.input.zero_point}


def _tensor(_layer: QuantLinear) -> tuple[list[onnx.NodeProto], dict[str, Tensor]]:
    return [
        make_node("DynamicQuantizeLinear", ["x"], ["q", "step", "z"]),
        make_node("MatMulInteger", ["q", "w", "z"], ["p"]),
        make_node("Cast", ["p"], ["f"], to=onnx.TensorProto.FLOAT),
        make_node("Mul", ["step", "ws"], ["scales"]),
        make_node("Mul", ["f", "scales"], ["m"]),
    ], {}


def _token(_layer: QuantLinear) -> tuple[list[onnx.NodeProto], dict[str, Tensor]]:
    return [
        make_node("Abs", ["x"], ["a"]),
        make_node("ReduceMax", ["a", "axis"], ["r"], keepdims=1),
        make_node("Max", ["r", "least"], ["above"]),
        make_node("Div", ["above", "most"], ["step"]),
        make_node("Div", ["x", "step"], ["ratio"]),
        make_node("Round", ["ratio"], ["whole"]),
        make_node("Cast", ["whole"], ["q"], to=onnx.TensorProto.INT8),
        make_node("MatMulInteger", ["q", "w"], ["p"]),
        make_node("Cast", ["p"], ["f"], to=onnx.TensorProto.FLOAT),
        make_node("Mul", ["f", "step"], ["by_step"]),
        make_node("Mul", ["by_step", "ws"], ["m"]),
    ], {"axis": torch.tensor([-1]), "least": torch.tensor(1e-8), "most": torch.tensor(127.0)}


@torch.no_grad()
def allowed(layer: QuantLinear, x: Tensor) -> Tensor:
    """How far an engine may be from torch, for each output (B, N, O).

    Where an input lies between two levels, within float32 rounding of the middle, an engine that multiplies by 1 / step
    instead of dividing may take the other one: one step of that input, times its weight. Sums are rounded on top.
    """
    if layer.input is not None:
        step, zero = layer.input.scale, layer.input.zero_point.float()
        low, high = (bound - zero for bound in bounds(layer.input.zero_point))
    else:
        step, zero = (row_scale(x), torch.zeros(())) if layer.activations == "token" else dynamic_range(x)
        low, high = (zero - 127, zero + 127) if layer.activations == "token" else (-zero, 255 - zero)
    ratio = x / step
    middle = ((ratio - ratio.floor() - 0.5).abs() <= 1e-6 * ratio.abs() + 1e-6) & (ratio > low) & (ratio < high)
    weight = (layer.weight.float() * layer.weight_scale).abs()
    largest = (ratio.clamp(low, high) * step).abs() @ weight
    bias = 0 if layer.bias is None else layer.bias.abs()
    return (middle * step) @ weight + 4e-6 * (largest + bias) + 1e-7


def run(engine: str, path: Path, x: Tensor) -> Tensor:
    """What an engine makes of an input, in this process."""
    session = runtimes.get(engine).load(path, "cpu", 1)
    return torch.from_numpy(session.get(session.run(session.put(x.numpy()))))


def openvino(path: Path, images: Tensor, folder: Path) -> Tensor:
    """What OpenVINO makes of an input, in a process of its own (see `test_openvino.py`)."""
    np.save(folder / "images.npy", images.numpy())
    code = (
        "import sys; from pathlib import Path; import numpy as np; from compress import runtimes; "
        "folder = Path(sys.argv[2]); session = runtimes.get('openvino').load(Path(sys.argv[1]), 'cpu', 1); "
        "np.save(folder / 'logits.npy', session.get(session.run(session.put(np.load(folder / 'images.npy')))))"
    )
    environment = make_environment(runtimes.describe("openvino").environment)
    subprocess.run([sys.executable, "-c", code, str(path), str(folder)], check=True, env=environment)
    return torch.from_numpy(np.load(folder / "logits.npy"))
