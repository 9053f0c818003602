"""What others make of the float model in 8 bits, for `benchmarks/int8.py`: their files, and a worker for torchao's.

    python benchmarks/int8_peers.py prepare NAME FOLDER
    python benchmarks/int8_peers.py serve FILE THREADS PRECISION

FOLDER holds the float model as vit.pth and vit.onnx, and calibration images (n, C, height, width) as images.npy; what
is made stands in FOLDER/NAME, whole or not at all. Each tool is told what its own documentation says for a transformer
on an x86 processor that multiplies bytes (VNNI):

    ort_dynamic     `quantize_dynamic`, products by weights, int8 weights with a scale per channel
    ort_static      `quant_pre_process`, then `quantize_static`: QDQ, uint8 activations, int8 weights with a scale per
                    channel, products by weights
    ort_static_all  the same, every operator that it can quantise, which is what it does unless told otherwise
    openvino        OpenVINO's own file as it is saved by default, weights in fp16; to be computed in bf16
    nncf            `nncf.quantize` with model_type=TRANSFORMER; two files, the rest in fp32 and in bf16
    torchao         PT2E with `X86InductorQuantizer`, for `torch.compile` with freezing and the C++ wrapper; under
                    autocast the rest is bf16
"""

import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compress.runtimes.base import Inspection, Session
from compress.runtimes.server import serve

BATCH = 8  # calibration images at a time, where a tool takes several
LOWERED = ("qlinear_unary_lower_count", "qlinear_binary_lower_count", "qconv_unary_lower_count")  # integer kernels


def ort_dynamic(folder: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    products = ["MatMul", "Gemm"]
    quantize_dynamic(
        _without_shapes(folder, target),
        target / "model.onnx",
        op_types_to_quantize=products,
        per_channel=True,
        weight_type=QuantType.QInt8,
    )


def ort_static(folder: Path, target: Path, operators: list[str] | None) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self, images: np.ndarray):
            self.batches = iter(np.split(images, range(BATCH, len(images), BATCH)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch}

    quant_pre_process(_without_shapes(folder, target), target / "prepared.onnx")
    quantize_static(
        target / "prepared.onnx",
        target / "model.onnx",
        Reader(np.load(folder / "images.npy")),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=operators,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": operators is not None},
    )
    (target / "prepared.onnx").unlink()


def _without_shapes(folder: Path, target: Path) -> Any:
    """The float graph; ONNX Runtime's tools refuse those that PyTorch's exporter wrote with shapes in them."""
    import onnx

    model = onnx.load(folder / "vit.onnx")
    del model.graph.value_info[:]
    return model


def openvino(folder: Path, target: Path) -> None:
    from openvino import Core, save_model

    model = Core().read_model(folder / "vit.onnx")
    model.set_rt_info("bf16", ["compress", "rest"])  # what `compress.runtimes.openvino` asks the engine for
    save_model(model, target / "bf16.xml")


def nncf(folder: Path, target: Path) -> None:
    import nncf
    from openvino import Core, save_model

    images = np.load(folder / "images.npy")
    quantized = nncf.quantize(
        Core().read_model(folder / "vit.onnx"),
        nncf.Dataset([image[None] for image in images]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(images),
    )
    for rest in ("fp32", "bf16"):
        quantized.set_rt_info(rest, ["compress", "rest"])
        save_model(quantized, target / f"{rest}.xml", compress_to_fp16=False)


def torchao(folder: Path, target: Path) -> None:
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    from compress import loading

    model, _, _ = loading.restore(folder / "vit.pth")
    images = torch.from_numpy(np.load(folder / "images.npy"))
    sizes = ({0: torch.export.Dim("batch", min=1, max=4096)},)
    with torch.no_grad():
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        graph = torch.export.export(model, (images[:2],), dynamic_shapes=sizes).module()
        prepared = prepare_pt2e(graph, quantizer)
        for batch in images.split(BATCH):
            prepared(batch)
        converted = convert_pt2e(prepared)
        used = {node.target for node in converted.graph.nodes if node.op == "get_attr"}
        for name in [name for name, _ in converted.named_parameters() if name not in used]:  # float weights, else saved
            owner, _, last = name.rpartition(".")
            delattr(converted.get_submodule(owner), last)
        program = torch.export.export(converted, (images[:2],), dynamic_shapes=sizes)
    program.example_inputs = None  # images, else saved
    torch.export.save(program, target / "model.pt2")


PEERS: dict[str, Callable[[Path, Path], None]] = {
    "ort_dynamic": ort_dynamic,
    "ort_static": partial(ort_static, operators=["MatMul", "Gemm"]),
    "ort_static_all": partial(ort_static, operators=None),
    "openvino": openvino,
    "nncf": nncf,
    "torchao": torchao,
}


class TorchaoSession(Session):
    """A PT2E program, compiled for each shape that comes."""

    def __init__(self, path: Path, threads: int, precision: str):
        import torch
        import torch._inductor.config
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer  # noqa: F401  tells inductor its patterns

        from compress.measure.environment import configure_allocator, cpu_name

        torch.set_num_threads(threads)
        configure_allocator()
        torch._inductor.config.freezing = True
        torch._inductor.config.cpp_wrapper = True  # calls its kernels without Python between them
        program = torch.export.load(path).module(check_guards=False)
        program._forward_pre_hooks.clear()  # checks of the input in Python, which took half the time of a small model
        self.model = torch.compile(program, dynamic=False)
        self.around = partial(torch.autocast, "cpu", torch.bfloat16, enabled=precision == "bf16")
        self.device_name = cpu_name()

    def put(self, images: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(images)

    def run(self, images: Any) -> Any:
        import torch

        with self.around(), torch.no_grad():
            return self.model(images)

    def get(self, logits: Any) -> np.ndarray:
        return logits.float().numpy()


def inspect(precision: str) -> Inspection:
    """What inductor made of the products, as its own counters have it once a batch has run."""
    from torch._dynamo.utils import counters

    lowered = sum(counters["inductor"][name] for name in LOWERED)
    notes = ("the rest under autocast to bf16",) if precision == "bf16" else ()
    return Inspection("int8" if lowered else "int8-simulated", notes=notes)


def prepare(name: str, folder: Path) -> None:
    from compress import runtimes  # noqa: F401  keeps OpenVINO and NNCF from reporting to their makers

    half = folder / f".{name}.{os.getpid()}.tmp"
    half.mkdir()
    try:
        PEERS[name](folder, half)
        half.replace(folder / name)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def main(do: str, *arguments: str) -> None:
    if do == "prepare":
        name, folder = arguments
        prepare(name, Path(folder))
    else:
        path, threads, precision = arguments
        serve(lambda: partial(TorchaoSession, Path(path), int(threads), precision), partial(inspect, precision))


if __name__ == "__main__":
    main(*sys.argv[1:])
