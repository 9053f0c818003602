"""OpenVINO on a CPU. The artifact is the ONNX file of ONNX Runtime; QDQ graphs become integer kernels.

Left to itself, OpenVINO computes float models in bfloat16 on processors with AMX and calls them fp32. Here it is told
to stay with float32: a row that says fp32 is fp32. A bf16 variant is a float graph whose metadata say so; `executed` is
what the kernels report.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
from openvino import opset8 as ops
from openvino.utils import replace_node

from compress.measure.environment import cpu_name
from compress.runtimes.base import Inspection, Runtime, Session

if TYPE_CHECKING:
    from torch import Tensor

    from baselines.vit import VisionTransformer
    from compress.checkpoint import Checkpoint
    from compress.variant import Variant

PRODUCTS = frozenset({"MatMul", "Convolution", "GroupConvolution"})


class OpenvinoSession(Session):
    def __init__(self, path: Path, threads: int):
        self.compiled = openvino.Core().compile_model(read(path), "CPU", settings(threads, wanted(path)))
        self.request = self.compiled.create_infer_request()
        self.device_name = cpu_name()

    def put(self, images: np.ndarray) -> Any:
        return openvino.Tensor(np.ascontiguousarray(images), shared_memory=True)

    def run(self, images: Any) -> Any:
        self.request.set_input_tensor(images)
        self.request.infer()
        return np.array(self.request.get_output_tensor(0).data)  # the next call writes over the engine's own

    def get(self, logits: Any) -> np.ndarray:
        return logits


class Openvino(Runtime):
    name, suffix, padded = "openvino", ".onnx", True
    numbers = frozenset({"fp32", "bf16", "int8"})

    def devices(self) -> tuple[str, ...]:
        return ("cpu",)

    def build(self, model: VisionTransformer, which: Variant, content: Checkpoint, path: Path, images: Tensor) -> None:
        from baselines.vit import VisionTransformer
        from compress import variant
        from compress.export import export_onnx

        methods = [method for method in which.methods if method.numbers != "bf16"]
        if len(methods) < len(which.methods):  # the engine does the rounding
            model = variant.prepare(VisionTransformer(content.config), methods)
            model.load_state_dict({name: value.float() for name, value in content.state.items()})
        export_onnx(variant.convert(model, methods), path, images, content)

    def load(self, path: Path, device: str, threads: int) -> OpenvinoSession:
        return OpenvinoSession(path, threads)

    def inspect(self, path: Path) -> Inspection:
        """Reads the kernels that OpenVINO chose for an image of noise, and what they multiplied."""
        model = read(path)
        if not any(_holds_integers(node) for node in model.get_ops()):
            return Inspection(float_kernels(path))
        image = np.random.default_rng(0).standard_normal(_one_image(model), dtype=np.float32)
        integer, products = integer_names(model, image), product_macs(path, image)
        share = sum(macs for name, macs in products.items() if name in integer) / sum(products.values())
        return Inspection("int8" if share else "int8-simulated", share)


def wanted(path: Path) -> str:
    """In which numbers the float part of a file is meant to be computed: fp32 or bf16."""
    import onnx

    described = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    return "bf16" if json.loads(described.get("numbers", "null")) == "bf16" else "fp32"


def float_kernels(path: Path) -> str:
    """In which numbers most products of a float graph ran here: fp32 or bf16."""
    model = read(path)
    compiled = openvino.Core().compile_model(model, "CPU", settings(1, wanted(path)))
    compiled.create_infer_request().infer({0: np.zeros(_one_image(model), np.float32)})
    kernels = [kernel.get_rt_info() for kernel in compiled.get_runtime_model().get_ops()]
    products = [facts for facts in kernels if facts["layerType"].astype(str) in ("FullyConnected", "MatMul")]
    low = sum(facts["runtimePrecision"].astype(str) == "bf16" for facts in products)
    return "bf16" if 2 * low > len(products) else "fp32"


def settings(threads: int, numbers: str = "fp32") -> dict[str, Any]:
    """Float stays float32 unless asked; one stream of exactly `threads` threads, placed where the system likes."""
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if numbers == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        "ENABLE_HYPER_THREADING": True,  # otherwise it takes fewer threads than it was given
    }


def read(path: Path) -> openvino.Model:
    """The graph of an ONNX file, such that OpenVINO computes what it says.

    Its low-precision pass (2026.4.1) moves the scales of an integer product past a `Gather` of one single index and
    loses that the axis is gone: the shapes that follow are wrong, and so are the logits, without an error. A gather
    of a list of one index, then a squeeze, is the same and passes.
    """
    model = openvino.Core().read_model(path)
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Gather" and node.input(1).get_partial_shape().rank == 0:
            data, index, axis = (value.get_source_output() for value in node.inputs())
            if data.get_element_type() == openvino.Type.f32:
                listed = ops.gather(data, ops.unsqueeze(index, np.int64(0)), axis)
                replace_node(node, ops.squeeze(listed, axis))
    return model


def integer_names(model: openvino.Model, image: np.ndarray) -> set[str]:
    """Names of the nodes that ran in integer kernels. They are chosen when the first image comes."""
    compiled = openvino.Core().compile_model(model, "CPU", settings(1))
    compiled.create_infer_request().infer({0: image})
    names: set[str] = set()
    for kernel in compiled.get_runtime_model().get_ops():
        facts = kernel.get_rt_info()
        if facts["primitiveType"].astype(str).lower().endswith("_i8"):  # as in brgemm_avx512_amx_I8
            names |= set(facts["originalLayersNames"].astype(str).split(","))
    return names


def product_macs(path: Path, image: np.ndarray) -> dict[str, int]:
    """Multiply-accumulates of each matrix product and convolution for one image, by node name.

    The sizes are those that occurred, since the number of tokens may depend on the image.
    """
    model = read(path)
    products = [node for node in model.get_ops() if node.get_type_name() in PRODUCTS]
    before, seen = len(model.outputs), {}  # where the size of a value is found; some are looked at by several products
    for node in products:
        for value in (node.output(0), node.input_value(0), node.input_value(1)):
            if value not in seen:
                model.add_outputs(value)
                seen[value] = len(seen)
    request = openvino.Core().compile_model(model, "CPU", settings(1)).create_infer_request()
    request.infer({0: image})
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


def _holds_integers(node: openvino.Node) -> bool:
    """Whether it is a matrix of int8 weights."""
    is_byte = node.get_output_element_type(0) in (openvino.Type.i8, openvino.Type.u8)
    return is_byte and node.get_type_name() == "Constant" and len(node.get_output_shape(0)) >= 2


def _one_image(model: openvino.Model) -> list[int]:
    """(1, C, height, width); more where the graph fixes the batch."""
    return [size.get_length() if size.is_static else 1 for size in model.input(0).get_partial_shape()]


RUNTIME = Openvino()
