"""PyTorch, eager. The artifact is a checkpoint of the converted model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from baselines.classifier import Classifier
from baselines.vit import VisionTransformer
from compress import loading, variant
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import Checkpoint
from compress.measure import cost
from compress.measure.environment import cpu_name, settle_allocator
from compress.quantization.float8 import Float8Linear, in_hardware, unfit
from compress.quantization.products import CUDA_MULTIPLE, CUDA_ROWS, exact, integer_, integer_macs
from compress.quantization.storage import lean
from compress.runtimes.base import Inspection, Runtime, Session
from compress.variant import Variant

FLOAT8 = frozenset({"fp8"} if in_hardware() else ())
INT8 = frozenset({"int8"} if torch.cuda.is_available() or exact(torch.device("cpu")) else ())


class EagerSession(Session):
    def __init__(self, model: Classifier, device: torch.device):
        self.model, self.device = model.to(device).eval(), device
        self.dtype = next(model.parameters()).dtype  # inputs come in it, so that converting them is not timed
        self.device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()

    def put(self, images: np.ndarray) -> Any:
        return torch.from_numpy(images).to(self.device, self.dtype)

    @torch.inference_mode()
    def run(self, images: Any) -> Any:
        logits = self.model(images)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return logits

    def get(self, logits: Any) -> np.ndarray:
        return logits.float().cpu().numpy()

    def peak_memory_bytes(self) -> int | None:
        on_gpu = self.device.type == "cuda"
        return torch.cuda.max_memory_allocated(self.device) if on_gpu else super().peak_memory_bytes()


class Eager(Runtime):
    name, suffix = "torch", ".pth"
    numbers = frozenset({"fp32", "bf16"}) | FLOAT8 | INT8
    simulates = frozenset({"int8", "int4", "fp8"}) - FLOAT8 - INT8
    loaded_on = "cpu"

    def devices(self) -> tuple[str, ...]:
        return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

    def build(
        self,
        model: Classifier,
        which: Variant,
        content: Checkpoint,
        path: Path,
        images: Tensor,
        calibration: Sequence[Tensor] = (),
    ) -> None:
        shipped = variant.convert(model, which.methods)
        state = lean(shipped.state_dict()) if which.numbers == "int8" else shipped.state_dict()
        checkpoint.save(path, replace(content, state=state, converted=True))

    def load(self, path: Path, device: str, threads: int) -> Session:
        torch.set_num_threads(threads)
        settle_allocator()
        self.loaded_on = device
        model, variant_, content = loading.restore(path)
        if not content.converted:
            model = variant.convert(model, variant_.methods)
        integer_(model, torch.device(device))
        return EagerSession(model, torch.device(device))

    def inspect(self, path: Path) -> Inspection:
        model, which, content = loading.restore(path)
        numbers, notes = which.numbers, ()
        if not isinstance(model, VisionTransformer):
            return Inspection(numbers)
        if numbers == "int8":
            return self._integers(model if content.converted else variant.convert(model, which.methods))
        if numbers == "fp8":
            notes = _beside_float8(model)
            if not any(isinstance(module, Float8Linear) for module in model.modules()):
                return Inspection("bf16", notes=notes)
        if numbers in ("fp32", "bf16") or (numbers == "fp8" and self.loaded_on == "cuda" and in_hardware()):
            return Inspection(numbers, notes=notes)
        note = f"torch computes the quantised model in float: its accuracy is real, its speed is not {numbers}'s"
        return Inspection(f"{numbers}-simulated", None if numbers == "fp8" else 0.0, (note, *notes))

    def as_run(self, model: nn.Module) -> nn.Module:
        """A model as this engine runs it, every kernel called from the host."""
        return model

    def _integers(self, model: VisionTransformer) -> Inspection:
        """Runs images through an int8 model, and counts what integer kernels did of them."""
        config, device = model.config, torch.device(self.loaded_on)
        count = CUDA_ROWS if device.type == "cuda" else 1  # so many that no product has rows that were only added
        noise = torch.randn(count, config.channels, *config.image_size, generator=torch.Generator().manual_seed(0))
        left, images = integer_(model, device), noise.to(device)
        total = cost.of_images(model.to(device), [images]).per_image.mean().item() * count
        run = self.as_run(model)
        with torch.no_grad():
            run(images)
            share = integer_macs(lambda: run(images)) / total
        why = f"sizes are no multiples of {CUDA_MULTIPLE}" if exact(device) else "integer products overflow here"
        notes = (f"simulated in float, since {why}: {_few(left)}",) if left else ()
        return Inspection("int8" if share else "int8-simulated", share, notes)


def _beside_float8(model: VisionTransformer) -> tuple[str, ...]:
    """Which Linears the hardware takes not."""
    names = unfit(model.encoder.blocks)
    return (f"in bf16, since their sizes are no multiples of 16: {_few(names)}",) if names else ()


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{', '.join(names[:4])}{more}"


RUNTIME = Eager()
