"""OpenVINO on a CPU. The artifact is the ONNX file of ONNX Runtime; QDQ graphs become integer kernels.

Left to itself, OpenVINO computes float models in bfloat16 on processors with AMX and calls them fp32. Here it is told
to stay with float32: a row that says fp32 is fp32. The metadata of a file say where everything that is not in integers
may be computed in bf16 ("fallback_dtype"); what was done is read from the kernels.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from baselines.cpu import cpu_flags
from compress.runtimes.base import BuildInputs, Inspection, Runtime, describe_images

if TYPE_CHECKING:
    from compress.checkpoints.checkpoint import Checkpoint
    from compress.runtimes.openvino_session import OpenvinoSession


class Openvino(Runtime):
    name, packages, extra = "openvino", ("openvino",), "openvino"
    engine = "compress.runtimes.openvino_session"
    environment = {"CI": "true"}  # noqa: RUF012  importing it reports to Google Analytics, but not from a build server
    suffix, opens, side_files = ".onnx", (".xml",), {".xml": ".bin"}
    dtypes = frozenset({"fp32", "bf16", "int8", "int4"})
    fallback_dtypes = ("fp32", "bf16") if cpu_flags() & {"avx512_bf16", "amx_bf16"} else ("fp32",)
    batch_shapes = ("fixed", "dynamic")
    pads_ragged = True

    def devices(self) -> tuple[str, ...]:
        return ("cpu",)

    def build(self, inputs: BuildInputs, path: Path) -> None:
        from compress.exporters.onnx import convert_for_onnx, export_onnx

        converted = convert_for_onnx(inputs.model, inputs.which, inputs.content)
        export_onnx(converted, path, inputs.images, inputs.content)

    def write_usage(self, path: Path, content: Checkpoint, threads: int, device: str = "cpu") -> str:
        from compress.runtimes.graph_files import read_graph_file

        fallback = "bf16" if "bf16" in read_graph_file(path).metadata.get("fallback_dtype", "") else "f32"
        settings = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
        return (
            f"import openvino\n{describe_images(content)}\nmodel = openvino.Core().read_model({str(path)!r})\n"
            "model.reshape(images.shape)  # compiled for one batch size, as it was measured\n"
            f"settings = {settings | {'INFERENCE_PRECISION_HINT': fallback}}\n"
            "compiled = openvino.compile_model(model, 'CPU', settings)\nlogits = compiled(images)[0]\n"
        )

    def load(self, path: Path, device: str, threads: int, batch_size: int | None = None) -> OpenvinoSession:
        from compress.runtimes.openvino_session import OpenvinoSession

        return OpenvinoSession(path, threads, batch_size)

    def inspect(self, path: Path, batch_size: int | None = None, device: str = "cpu") -> Inspection:
        from compress.runtimes.openvino_session import inspect

        return inspect(path, batch_size, bf16="bf16" in self.fallback_dtypes)
