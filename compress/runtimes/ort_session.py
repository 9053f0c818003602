"""An ONNX file, loaded in ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from compress.measure.environment import cpu_name
from compress.measure.load import gpu_name
from compress.runtimes.base import Session, check_batch

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def usable_devices() -> tuple[str, ...]:
    available = onnxruntime.get_available_providers()
    return tuple(device for device, provider in PROVIDERS.items() if provider in available)


def set_options(threads: int) -> onnxruntime.SessionOptions:
    """Threads as asked, idle ones asleep: spinning would steal time from whatever is measured next."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def open_session(
    path: Path, options: onnxruntime.SessionOptions, batch_size: int | None = None, device: str = "cpu"
) -> onnxruntime.InferenceSession:
    """Loads a file, compiled for one batch size where that is given.

    Raises:
        RuntimeError: the file takes another one alone.
    """
    if batch_size is not None:
        options.add_free_dimension_override_by_name("batch", batch_size)  # as in our own files
    session = onnxruntime.InferenceSession(path, options, providers=[PROVIDERS[device]])
    (batch, *_) = session.get_inputs()[0].shape
    if batch_size is None or batch == batch_size:
        return session
    check_batch(path, batch if isinstance(batch, int) else None, batch_size)
    options.add_free_dimension_override_by_name(batch, batch_size)
    return onnxruntime.InferenceSession(path, options, providers=[PROVIDERS[device]])


class OrtSession(Session):
    def __init__(self, path: Path, device: str, threads: int, batch_size: int | None = None):
        self.session = open_session(path, set_options(threads), batch_size, device)
        self.input_name = self.session.get_inputs()[0].name
        self.device_name = cpu_name() if device == "cpu" else gpu_name()

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
