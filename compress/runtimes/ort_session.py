"""An ONNX file, loaded in ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from compress.measure.environment import cpu_name
from compress.measure.load import gpu_name
from compress.runtimes.base import Session, check_batch
from compress.runtimes.graph_files import read_graph_file

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
PROVIDERS = {"cpu": CPU, "cuda": CUDA}
EXACT = {"use_tf32": "0"}  # a row that says fp32 is fp32
Provider = str | tuple[str, dict[str, str]]


def usable_devices() -> tuple[str, ...]:
    available = onnxruntime.get_available_providers()
    return tuple(device for device, provider in PROVIDERS.items() if provider in available)


def list_providers(device: str) -> list[Provider]:
    """What ONNX Runtime is asked for on a device; the first takes what it can."""
    return [(CUDA, EXACT)] if device == "cuda" else [PROVIDERS[device]]


def set_options(threads: int) -> onnxruntime.SessionOptions:
    """Threads as asked, idle ones asleep: spinning would steal time from whatever is measured next."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def open_session(
    path: Path,
    options: onnxruntime.SessionOptions,
    batch_size: int | None = None,
    providers: Sequence[Provider] = (CPU,),
) -> onnxruntime.InferenceSession:
    """Loads a file, compiled for one batch size where that is given.

    Raises:
        RuntimeError: the file takes another one alone, or the first provider does not start here.
    """
    if batch_size is not None:
        options.add_free_dimension_override_by_name("batch", batch_size)  # as in our own files
    session = _start(path, options, providers)
    (batch, *_) = session.get_inputs()[0].shape
    if batch_size is None or batch == batch_size:
        return session
    check_batch(path, batch if isinstance(batch, int) else None, batch_size)
    options.add_free_dimension_override_by_name(batch, batch_size)
    return _start(path, options, providers)


def _start(
    path: Path, options: onnxruntime.SessionOptions, providers: Sequence[Provider]
) -> onnxruntime.InferenceSession:  # fmt: skip
    """Without the fallback to a CPU that ONNX Runtime takes where a provider does not start, and says little of."""
    session = onnxruntime.InferenceSession(path, options, providers=[*providers])
    first = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if first not in session.get_providers():
        raise RuntimeError(
            f"ONNX Runtime could not start its {first}, whose libraries are missing or of another version; "
            "pip install 'compress-vit[gpu]' brings those that fit"
        )
    return session


class OrtSession(Session):
    def __init__(self, path: Path, device: str, threads: int, batch_size: int | None = None):
        self.session = open_session(path, set_options(threads), batch_size, self.list_providers(path, device))
        self.input_name = self.session.get_inputs()[0].name
        self.device_name = cpu_name() if device == "cpu" else gpu_name()

    @staticmethod
    def list_providers(_path: Path, device: str) -> list[Provider]:
        return list_providers(device)

    def put(self, images: np.ndarray) -> Any:
        return {self.input_name: np.ascontiguousarray(images)}

    def run(self, images: Any) -> Any:
        return self.session.run(None, images)[0]

    def get(self, logits: Any) -> np.ndarray:
        return logits


class BoundSession(OrtSession):
    """Inputs and outputs stay on the device, so that copying them is not timed."""

    def __init__(self, path: Path, device: str, threads: int, batch_size: int | None = None):
        super().__init__(path, device, threads, batch_size)
        self.device = device

    def put(self, images: np.ndarray) -> onnxruntime.IOBinding:
        binding = self.session.io_binding()
        there = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(images), self.device, 0)
        binding.bind_ortvalue_input(self.input_name, there)
        binding.bind_output(self.session.get_outputs()[0].name, self.device)
        return binding

    def run(self, images: onnxruntime.IOBinding) -> onnxruntime.IOBinding:
        self.session.run_with_iobinding(images)
        images.synchronize_outputs()
        return images

    def get(self, logits: onnxruntime.IOBinding) -> np.ndarray:
        return logits.copy_outputs_to_cpu()[0]

    def peak_memory_bytes(self) -> int | None:
        return None  # ONNX Runtime does not tell what it holds on a GPU


class TensorRTSession(BoundSession):
    """What TensorRT does not take runs on CUDA."""

    @staticmethod
    def list_providers(path: Path, device: str) -> list[Provider]:
        return [(TENSORRT, {"trt_bf16_enable": "1" if allows_bf16(path) else "0"}), *list_providers(device)]


def allows_bf16(path: Path) -> bool:
    """Whether the metadata of a file say that it may be computed in bf16."""
    return "bf16" in read_graph_file(path).metadata.get("fallback_dtype", "")
