"""A graph, loaded in OpenVINO, and what its kernels multiply."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino

from compress.measure.environment import cpu_name
from compress.runtimes import fourbits
from compress.runtimes.base import Inspection, Session, overflow_notes
from compress.runtimes.openvino_graph import (
    compile_model,
    count_product_macs,
    find_float_dtype,
    find_integer_products,
    holds_integers,
    read_fallback_dtype,
    read_model,
    run_kernels,
    shape_of_input,
)


class OpenvinoSession(Session):
    def __init__(self, path: Path, threads: int, batch_size: int | None = None):
        self.compiled = compile_model(read_model(path, batch_size), threads)
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


def inspect(path: Path, batch_size: int | None, *, bf16: bool) -> Inspection:
    """Reads the kernels that OpenVINO chose for an image of noise, and what they multiplied; see `Runtime`.

    Args:
        bf16: whether this processor computes in it.
    """
    model = read_model(path, batch_size)
    image = np.random.default_rng(0).standard_normal(shape_of_input(model), dtype=np.float32)
    kernels = run_kernels(model, image)
    floating = find_float_dtype(kernels)

    def count_macs() -> dict[str, int]:
        return count_product_macs(read_model(path, batch_size), image)

    if packed := fourbits.list_products(model):
        return fourbits.inspect(packed, kernels, count_macs, lambda: _rounds_inputs(model, image))
    if not any(holds_integers(node) for node in model.get_ops()):
        return Inspection(floating)
    integer, products = find_integer_products(model, kernels), count_macs()
    share = sum(macs for name, macs in products.items() if name in integer) / sum(products.values())
    notes = ("the rest ran in bf16",) if floating == "bf16" else ()
    if read_fallback_dtype(model) == "bf16" and floating == "fp32" and not bf16:
        notes = ("this processor computes no bf16, so the rest ran in fp32",)
    return Inspection("int8" if share else "int8-simulated", share, (*notes, *overflow_notes()))


def _rounds_inputs(model: openvino.Model, image: np.ndarray) -> bool:
    """Whether inputs of 4-bit weights are rounded: told not to round any, OpenVINO then gives other logits."""
    first, second = (compile_model(model, 1, more)({0: image})[0] for more in ({}, fourbits.IN_FLOAT))
    return bool((first != second).any())
