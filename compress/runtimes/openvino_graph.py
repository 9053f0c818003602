"""An OpenVINO graph: read, compiled as its metadata say, and looked into: which kernels ran, and what they multiply."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset8 as ops
from openvino.utils import replace_node

from compress.runtimes.base import check_batch

PRODUCTS = frozenset({"MatMul", "Convolution", "GroupConvolution"})
FLOAT_KERNELS = frozenset({"Convolution", "FullyConnected", "MatMul", "MVN"})  # tell fp32 from bf16; MVN: LayerNorm
BYTES = (openvino.Type.i8, openvino.Type.u8)
MOVES = frozenset(  # between levels of 8 bits and a product: dequantisation, and what moves values
    {"Convert", "Subtract", "Multiply", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Gather", "Slice"}
)
ADDED = re.compile("/(Dequantization.*|transpose_b)$")  # what OpenVINO's passes add to the name of a product


def read_fallback_dtype(model: openvino.Model) -> str:
    """In which dtype whatever is not in integers may be computed, as the metadata of its file say: fp32 or bf16."""
    for section in ("compress", "framework"):  # of our own OpenVINO files, and where metadata of ONNX files are found
        for name in ("fallback_dtype", "rest"):  # as it is called, and as files of compress 0.1.0 call it
            if model.has_rt_info([section, name]):
                return "bf16" if "bf16" in model.get_rt_info([section, name]).astype(str) else "fp32"
    return "fp32"


def move_metadata(model: openvino.Model) -> None:
    """Moves the metadata of the ONNX file that it was read from to where our own OpenVINO files have them."""
    if "framework" in model.rt_info:
        for name, value in list(model.rt_info["framework"].items()):
            model.set_rt_info(value.astype(str), ["compress", name])
        del model.rt_info["framework"]


def compile_model(model: openvino.Model, threads: int, more: Mapping[str, Any] | None = None) -> openvino.CompiledModel:
    """Float stays float32 unless the file says otherwise; one stream of exactly `threads` threads, on any processors.

    Args:
        more: settings of OpenVINO, in addition.
    """
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if read_fallback_dtype(model) == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        "ENABLE_HYPER_THREADING": True,  # otherwise it takes fewer threads than it was given
    }
    return openvino.Core().compile_model(model, "CPU", {**settings, **(more or {})})


def read_model(path: Path, batch_size: int | None = None) -> openvino.Model:
    """The graph of a file, such that OpenVINO computes what it says.

    Its low-precision pass (2026.4.1) moves the scales of an integer product past a `Gather` of one single index and
    loses that the axis is gone: the shapes that follow are wrong, and so are the logits, without an error. A gather
    of a list of one index, then a squeeze, is the same and passes.

    Args:
        batch_size: to which the graph is fixed; None: as in the file.

    Raises:
        RuntimeError: the file takes another batch size alone.
    """
    model = openvino.Core().read_model(path)
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Gather" and node.input(1).get_partial_shape().rank == 0:
            data, index, axis = (value.get_source_output() for value in node.inputs())
            if data.get_element_type() == openvino.Type.f32:
                listed = ops.gather(data, ops.unsqueeze(index, np.int64(0)), axis)
                replace_node(node, ops.squeeze(listed, axis))
    if batch_size is not None:
        batch, *image = model.input(0).get_partial_shape()
        check_batch(path, None if batch.is_dynamic else batch.get_length(), batch_size)
        model.reshape({0: openvino.PartialShape([batch_size, *image])})
    return model


def run_kernels(model: openvino.Model, image: np.ndarray) -> list[dict[str, str]]:
    """What OpenVINO says of each kernel, and `second`, its second input. They are chosen when the first image comes."""
    compiled = compile_model(model, 1)
    compiled.create_infer_request().infer({0: image})
    wanted, found = ("layerType", "primitiveType", "runtimePrecision", "originalLayersNames"), []
    for kernel in compiled.get_runtime_model().get_ops():
        facts = kernel.get_rt_info()
        second = kernel.input_value(1).get_node().get_friendly_name() if kernel.get_input_size() > 1 else ""
        found.append({"second": second, **{name: facts[name].astype(str) for name in wanted}})
    return found


def find_float_dtype(kernels: Sequence[dict[str, str]]) -> str:
    """In which dtype most of the float kernels ran: fp32 or bf16."""
    ran = [kernel["runtimePrecision"] for kernel in kernels if kernel["layerType"] in FLOAT_KERNELS]
    return "bf16" if ran.count("bf16") > ran.count("f32") else "fp32"


def find_integer_products(model: openvino.Model, kernels: Sequence[dict[str, str]]) -> set[str]:
    """Names of the products that ran in integers: both operands are levels, and the kernel is one of integers.

    A kernel lists the nodes it stands for, but not always all of them. Of a product it may list what the low-precision
    pass put behind it (`a/DequantizationMultiply`), or only its second input tells (`a/transpose_b`). The first product
    of fused attention is missing there, and the second is listed although it may be float. So a product that is not
    listed at all belongs to the kernel of what follows it.
    """
    integer: dict[str, bool] = {}
    for kernel in kernels:
        of_integers = kernel["primitiveType"].lower().endswith("_i8")  # as in brgemm_avx512_amx_I8
        if kernel["primitiveType"].startswith("unknown"):  # only moves values, or nothing
            continue
        for name in [*kernel["originalLayersNames"].split(","), kernel["second"]]:
            node = ADDED.sub("", name)
            integer[node] = integer.get(node, False) or of_integers
    names = set()
    for product in model.get_ops():
        if product.get_type_name() in PRODUCTS and all(_in_levels(product.input_value(side)) for side in (0, 1)):
            node = product
            while node.get_friendly_name() not in integer and len(node.output(0).get_target_inputs()) == 1:
                (behind,) = node.output(0).get_target_inputs()
                node = behind.get_node()
            if integer.get(node.get_friendly_name(), False):
                names.add(product.get_friendly_name())
    return names


def count_product_macs(model: openvino.Model, images: np.ndarray) -> dict[str, int]:
    """Multiply-accumulates of each matrix product and convolution for a batch of images, by node name.

    The sizes are those that occurred, since the number of tokens may depend on the image. Outputs are added to `model`.
    """
    products = [node for node in model.get_ops() if node.get_type_name() in PRODUCTS]
    before, seen = len(model.outputs), {}  # where the size of a value is found; some are looked at by several products
    for node in products:
        for value in (node.output(0), node.input_value(0), node.input_value(1)):
            if value not in seen:
                model.add_outputs(value)
                seen[value] = len(seen)
    request = compile_model(model, 1).create_infer_request()
    request.infer({0: images})
    sizes = [list(request.get_output_tensor(index).shape) for index in range(before, len(model.outputs))]
    macs = {}
    for node in products:
        out, data, weight = (sizes[seen[value]] for value in (node.output(0), node.input_value(0), node.input_value(1)))
        if node.get_type_name() == "MatMul":
            inner = data[-2] if node.get_attributes()["transpose_a"] else data[-1]
        else:
            channels = weight[:2] if node.get_type_name() == "GroupConvolution" else weight[:1]
            inner = math.prod(weight) // math.prod(channels)
        macs[node.get_friendly_name()] = math.prod(out) * inner
    return macs


def _in_levels(value: openvino.Output) -> bool:
    """Whether an operand of a product has at most 256 values."""
    node = value.get_node()
    while node.get_type_name() != "FakeQuantize" and node.get_output_element_type(0) not in BYTES:
        if node.get_type_name() not in MOVES:
            return False
        node = node.input_value(0).get_node()
    return True


def holds_integers(node: openvino.Node) -> bool:
    """Whether it is a matrix of int8 weights."""
    is_byte = node.get_output_element_type(0) in BYTES
    return is_byte and node.get_type_name() == "Constant" and len(node.get_output_shape(0)) >= 2


def shape_of_input(model: openvino.Model) -> list[int]:
    """(1, C, height, width); more where the graph fixes the batch."""
    return [size.get_length() if size.is_static else 1 for size in model.input(0).get_partial_shape()]
