"""What the exporter's graph lacks: the ONNX of our own operators, and constants no larger than they need be."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import opset20 as op
from onnxscript.values import Op, Opset
from torch import nn
from torch.nn.modules.conv import _ConvNd

from compress.quantization.linear import match_layers

LEAST = 256  # values of a constant that is worth it
PRODUCTS = ("Conv", "MatMul", "Gemm")


def list_translations() -> dict[Any, Any]:
    """Torch operator -> function that writes it as ONNX."""
    operators = torch.ops.compress
    return {
        operators.quantize_dequantize.default: _quantize_dequantize,
        operators.dequantize_columns.default: _dequantize_columns,
        operators.dynamic_product.default: _dynamic_product,
        operators.token_product.default: _token_product,
        operators.int4_product.default: _int4_product,
    }


def halve_constants(proto: onnx.ModelProto) -> None:
    """Stores float constants in 16 bits where nothing is lost by it; engines widen them when they load the file."""
    added = []
    for constant in proto.graph.initializer:
        if constant.data_type != onnx.TensorProto.FLOAT or np.prod(constant.dims, dtype=int) < LEAST:
            continue
        values = onnx.numpy_helper.to_array(constant)
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        if np.array_equal(halved.astype(np.float32), values):
            name = constant.name
            constant.CopyFrom(onnx.numpy_helper.from_array(halved, f"{name}_half"))
            added.append(onnx.helper.make_node("Cast", [constant.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*added, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def list_gathered_indices(proto: onnx.ModelProto) -> None:
    """Lets every gather of one index take a list of that index, and a squeeze follow it: the same values.

    OpenVINO (2026.4.1) computes a graph of integers wrongly where the index is a number, without an error: it moves
    scales past such a gather, and loses that an axis is gone. So a file is right in it whoever loads it.
    """
    numbers = {each.name: each for each in proto.graph.initializer if not each.dims}
    nodes = []
    for node in proto.graph.node:
        nodes.append(node)
        if node.op_type != "Gather" or node.input[1] not in numbers:
            continue
        axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
        index, output = onnx.numpy_helper.to_array(numbers[node.input[1]]), node.output[0]
        listed, axes, behind = f"{output}_index", f"{output}_axis", f"{output}_listed"
        proto.graph.initializer.append(onnx.numpy_helper.from_array(index.reshape(1), listed))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([axis], np.int64), axes))
        node.input[1], node.output[0] = listed, behind
        nodes.append(onnx.helper.make_node("Squeeze", [behind, axes], [output], name=f"{node.name}_squeeze"))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    for each in numbers.values():
        if each.name not in used:
            proto.graph.initializer.remove(each)


def list_layers(module: nn.Module) -> dict[str, Any]:
    """The layers whose products can be in integers, by name."""
    return {name: each for name, each in module.named_modules() if isinstance(each, nn.Linear | _ConvNd)}


def find_products(proto: onnx.ModelProto, module: nn.Module, skip: Sequence[str]) -> list[str]:
    """Names of the nodes that multiply with the weights of those layers which `skip` names, as torch calls them.

    Weights are known by their name or, since the exporter transposes those of a Linear and calls the result something
    else, by their values.

    Raises:
        InputError: a pattern fits no layer, or no layer is left in integers.
    """
    layers = list_layers(module)
    wanted = {name: layers[name].weight.detach().cpu().numpy() for name in match_layers([*layers], skip)}
    constants = {each.name: each for each in proto.graph.initializer}

    def holds(constant: onnx.TensorProto, name: str, weight: np.ndarray) -> bool:
        if f".{constant.name}".endswith(f".{name}.weight"):
            return True
        if weight.ndim != 2 or tuple(constant.dims) not in (weight.shape, weight.shape[::-1]):
            return False
        values = onnx.numpy_helper.to_array(constant)
        return any(np.array_equal(values, each) for each in (weight, weight.T))

    return [
        node.name
        for node in proto.graph.node
        if node.op_type in PRODUCTS and node.input[1] in constants
        if any(holds(constants[node.input[1]], name, weight) for name, weight in wanted.items())
    ]


def _quantize_dequantize(x: Any, scale: Any, zero_point: Any) -> Any:
    levels: Any = op.QuantizeLinear(x, scale, zero_point)
    return op.DequantizeLinear(levels, scale, zero_point)


def _dequantize_columns(weight: Any, scale: Any) -> Any:
    return op.DequantizeLinear(weight, scale, axis=1)


def _dynamic_product(x: Any, weight: Any, scale: Any) -> Any:
    results: Any = op.DynamicQuantizeLinear(x)
    levels, step, zero_point = results
    product: Any = op.MatMulInteger(levels, weight, zero_point)
    return op.Cast(product, to=onnx.TensorProto.FLOAT) * (step * scale)


def _token_product(x: Any, weight: Any, scale: Any) -> Any:
    axis: Any = op.Constant(value_ints=[-1])
    sizes: Any = op.Abs(x)
    largest: Any = op.ReduceMax(sizes, axis, keepdims=1)
    least: Any = op.Constant(value_float=1e-8)
    above: Any = op.Max(largest, least)
    most: Any = op.Constant(value_float=127.0)
    step: Any = above / most
    # uint8 around 128: of int8 by int8, ONNX Runtime's product takes a hundred times as long on x86
    middle: Any = op.Constant(value=onnx.numpy_helper.from_array(np.array(128, np.float32)))
    raised: Any = op.Round(x / step) + middle
    levels: Any = op.Cast(raised, to=onnx.TensorProto.UINT8)
    zero: Any = op.Constant(value=onnx.numpy_helper.from_array(np.array(128, np.uint8)))
    product: Any = op.MatMulInteger(levels, weight, zero)
    # not (step * scale): ONNX Runtime 1.31 takes that for one scale and fuses it, with wrong results
    return op.Cast(product, to=onnx.TensorProto.FLOAT) * step * scale


def _int4_product(x: Any, weight: Any, scale: Any) -> Any:
    outputs, _, half = weight.shape
    sizes = {"K": int(x.shape[-1]), "N": int(outputs), "block_size": 2 * int(half)}
    return _contributed("MatMulNBits", "A B scales", [*sizes, "bits", "accuracy_level"])(
        x, weight, scale, **sizes, bits=4, accuracy_level=4
    )


def _contributed(name: str, inputs: str, attributes: Sequence[str]) -> Any:
    """An operator of ONNX Runtime's own, which the onnx package does not know. OpenVINO reads some of them too."""
    schema = onnx.defs.OpSchema
    described = schema(
        name,
        domain := "com.microsoft",
        1,
        inputs=[schema.FormalParameter(each, f"T_{each}") for each in inputs.split()],
        outputs=[schema.FormalParameter("Y", "T_A")],
        type_constraints=[(f"T_{each}", ["tensor(float)", "tensor(uint8)"], "") for each in inputs.split()],
        attributes=[schema.Attribute(each, schema.AttrType.INT) for each in attributes],
    )
    return Op(Opset(domain, 1), name, described)
