"""int8 for architectures that compress does not know: ONNX Runtime's own quantizer, on the float graph.

It puts QuantizeLinear / DequantizeLinear pairs around the products whose weights are constants: convolutions (their
BatchNorm is folded before), Linear layers, and matrices multiplied otherwise. Products of two activations stay in
float, as in our own int8. Weights are symmetric int8 with one scale per output channel, activations uint8 with one
scale and zero point per tensor, set from calibration images: from the least to the greatest value, unless `observer`
is "percentile" or "entropy".

What lies between two convolutions (additions, ReLU, pooling) is in 8 bits too, so that levels need not become float in
between. Additions that feed no convolution are the residual stream of a transformer: those cost PVT v2-b0 10 dB.
Outputs of matrix products stay in float, as kernels give them anyway.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from compress import files, variant
from compress.exporters.onnx import check_parity, describe_file, trace_model
from compress.exporters.operators import PRODUCTS, find_products
from compress.methods import Int8
from compress.runtimes.base import overflow_notes

if TYPE_CHECKING:
    from compress.exporters.onnx import Parity
    from compress.runtimes.base import BuildInputs

PASSING = ("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool")  # levels go through them
JOINING = ("Add", "Concat")
BATCH = 8  # images in a calibration pass
OBSERVERS = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile,
             "entropy": CalibrationMethod.Entropy}  # fmt: skip


def build_int8(inputs: BuildInputs, path: Path) -> Parity:
    """Writes the ONNX file of an int8 variant of another architecture; see `Runtime.build`.

    Raises:
        ParityError: its answers are not those of the float model.
        InputError: `skip` names no layer, or the file cannot be written.
        RuntimeError: torch cannot export the model, or ONNX Runtime cannot quantize it.
    """
    method, images = inputs.which.methods[-1], inputs.images.cpu()
    assert isinstance(method, Int8)
    model: Any = variant.convert(inputs.model, []).cpu()
    proto = trace_model(model, images[:2])
    left = find_products(proto, model.module, method.skip)
    whole = quantize_graph(proto, method, left, Images(inputs.calibration or [images]))
    describe_file(whole, inputs.content)
    onnx.checker.check_model(whole)
    serialised = whole.SerializeToString()
    parity = check_parity(model, serialised, images, integer=True)
    files.write(path, serialised)
    return parity


class Images(CalibrationDataReader):
    """Hands calibration images to ONNX Runtime, a few at a time, so that not all activations lie in memory at once."""

    def __init__(self, batches: Sequence[Tensor]):
        self.chunks = [chunk.cpu().numpy() for batch in batches for chunk in batch.split(BATCH)]
        self.set_range(0, len(self.chunks))

    def __len__(self) -> int:
        return len(self.chunks)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.left: Iterator[np.ndarray] = iter(self.chunks[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]  None ends it
        chunk = next(self.left, None)
        return None if chunk is None else {"images": chunk}


def quantize_graph(proto: onnx.ModelProto, method: Int8, left: Sequence[str], images: Images) -> onnx.ModelProto:
    """A float graph -> one with 8-bit levels before its products.

    Args:
        left: names of nodes that stay in float.

    Raises:
        RuntimeError: ONNX Runtime cannot do it.
    """
    try:
        return _quantize(proto, method, left, images)
    except Exception as error:  # its kinds share no base of their own
        fault = str(error).strip().splitlines() or [type(error).__name__]
        raise RuntimeError(f"ONNX Runtime could not quantize it: {fault[0]}") from error


def _quantize(proto: onnx.ModelProto, method: Int8, left: Sequence[str], images: Images) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder, _quietly():
        plain, folded, target = (Path(folder) / f"{name}.onnx" for name in ("plain", "folded", "target"))
        onnx.save(proto, plain)
        quant_pre_process(plain, folded, skip_symbolic_shape=True)
        quantize_static(
            folded,
            target,
            images,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*PRODUCTS, *PASSING, *JOINING],
            nodes_to_exclude=[*left, *list_float_nodes(onnx.load(folded).graph)],
            per_channel=True,
            reduce_range=bool(overflow_notes()),  # 7 bits where two products of 8 would overflow
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=OBSERVERS.get(method.observer, CalibrationMethod.MinMax),
            extra_options={
                "CalibStridedMinMax": 1,  # ranges, or histograms, are taken after every chunk of images
                "CalibPercentile": method.percentile,
                "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
            },
        )
        return onnx.load(target)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what the quantizer prints, and advises that is done here anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def list_float_nodes(whole: onnx.GraphProto) -> list[str]:
    """Nodes that stay in float: products of two activations, and what joins values on no way to a convolution."""
    constants = {each.name for each in whole.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in whole.node:
        for name in node.input:
            users.setdefault(name, []).append(node)

    def convolved(node: onnx.NodeProto) -> bool:
        behind = [user for name in node.output for user in users.get(name, [])]
        return any(user.op_type == "Conv" or (user.op_type in PASSING and convolved(user)) for user in behind)

    return [
        node.name
        for node in whole.node
        if (node.op_type == "MatMul" and node.input[1] not in constants)
        or (node.op_type in JOINING and not convolved(node))
    ]
