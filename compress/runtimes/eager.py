"""PyTorch, eager. The artifact is a checkpoint of the converted model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.vit import VisionTransformer
from compress import checkpoint, variant
from compress.checkpoint import Checkpoint
from compress.measure.environment import cpu_name, settle_allocator
from compress.runtimes.base import Inspection, Runtime, Session
from compress.variant import Variant


class EagerSession(Session):
    def __init__(self, model: VisionTransformer, device: torch.device):
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
    numbers = frozenset({"fp32", "bf16"})
    simulates = frozenset({"int8"})

    def devices(self) -> tuple[str, ...]:
        return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

    def build(self, model: VisionTransformer, which: Variant, content: Checkpoint, path: Path, images: Tensor) -> None:
        shipped = variant.convert(model, which.methods)
        checkpoint.save(path, replace(content, state=shipped.state_dict(), converted=True))

    def load(self, path: Path, device: str, threads: int) -> Session:
        torch.set_num_threads(threads)
        settle_allocator()
        model, variant_, content = variant.restore(path)
        if not content.converted:
            model = variant.convert(model, variant_.methods)
        return EagerSession(model, torch.device(device))

    def inspect(self, path: Path) -> Inspection:
        numbers = variant.restore(path)[1].numbers
        if numbers != "int8":
            return Inspection(numbers)
        note = "torch computes the quantised model in float: its accuracy is real, its speed is not int8's"
        return Inspection("int8-simulated", 0.0, (note,))


RUNTIME = Eager()
