"""OpenVINO on a CPU. The artifact is the ONNX file of ONNX Runtime; QDQ graphs become integer kernels.

Left to itself, OpenVINO computes float models in bfloat16 on processors with AMX and calls them fp32. Here it is told
to stay with float32: a row that says fp32 is fp32. The metadata of a file say where everything that is not in integers
may be computed in bf16 ("rest"); what was done is read from the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino

from baselines.cpu import cpu_flags
from compress.measure.environment import cpu_name
from compress.runtimes import fourbits
from compress.runtimes.base import Inspection, Runtime, Session, overflow_notes
from compress.runtimes.openvino_graph import (
    float_numbers,
    holds_integers,
    integer_names,
    one_image,
    product_macs,
    read,
    rest,
    run_kernels,
    settings,
)

if TYPE_CHECKING:
    from torch import Tensor

    from baselines.classifier import Classifier
    from compress.checkpoints.checkpoint import Checkpoint
    from compress.variant import Variant


class OpenvinoSession(Session):
    def __init__(self, path: Path, threads: int):
        model = read(path)
        self.compiled = openvino.Core().compile_model(model, "CPU", settings(threads, rest(model)))
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
    numbers = frozenset({"fp32", "bf16", "int8", "int4"})
    rests = ("fp32", "bf16") if cpu_flags() & {"avx512_bf16", "amx_bf16"} else ("fp32",)

    def devices(self) -> tuple[str, ...]:
        return ("cpu",)

    def build(
        self,
        model: Classifier,
        which: Variant,
        content: Checkpoint,
        path: Path,
        images: Tensor,
        calibration: Sequence[Tensor] = (),
    ) -> None:
        from compress.export.onnx import export_onnx, shipped

        export_onnx(shipped(model, which, content), path, images, content)

    def load(self, path: Path, device: str, threads: int) -> OpenvinoSession:
        return OpenvinoSession(path, threads)

    def inspect(self, path: Path) -> Inspection:
        """Reads the kernels that OpenVINO chose for an image of noise, and what they multiplied."""
        model = read(path)
        image = np.random.default_rng(0).standard_normal(one_image(model), dtype=np.float32)
        kernels = run_kernels(model, image)
        floating = float_numbers(kernels)
        if packed := fourbits.products(model):
            return fourbits.inspect(
                packed, kernels, lambda: product_macs(path, image), lambda: rounds_inputs(model, image)
            )
        if not any(holds_integers(node) for node in model.get_ops()):
            return Inspection(floating)
        integer, products = integer_names(model, kernels), product_macs(path, image)
        share = sum(macs for name, macs in products.items() if name in integer) / sum(products.values())
        notes = ("the rest ran in bf16",) if floating == "bf16" else ()
        if rest(model) == "bf16" and floating == "fp32" and not self.rests[1:]:
            notes = ("this processor computes no bf16, so the rest ran in fp32",)
        return Inspection("int8" if share else "int8-simulated", share, (*notes, *overflow_notes()))


def rounds_inputs(model: openvino.Model, image: np.ndarray) -> bool:
    """Whether inputs of 4-bit weights are rounded: told not to round any, OpenVINO then gives other logits."""
    as_is = settings(1, rest(model))
    first, second = (
        openvino.Core().compile_model(model, "CPU", chosen)({0: image})[0]
        for chosen in (as_is, as_is | fourbits.IN_FLOAT)
    )
    return bool((first != second).any())


RUNTIME = Openvino()
