"""PyTorch, eager. The artifact is a checkpoint of the converted model."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from compress.runtimes.base import BuildInputs, Inspection, Runtime

if TYPE_CHECKING:
    from compress.runtimes.torch_session import EagerSession


class Eager(Runtime):
    name, packages, engine = "torch", ("torch",), "compress.runtimes.torch_session"
    suffix, opens = ".pth", (".safetensors", ".pt")

    @cached_property
    def dtypes(self) -> frozenset[str]:  # type: ignore[override]
        from compress.runtimes.torch_session import kernel_dtypes

        return kernel_dtypes()

    def dtypes_on(self, device: str) -> frozenset[str]:
        from compress.runtimes.torch_session import kernel_dtypes

        return kernel_dtypes(device)

    @cached_property
    def simulated_dtypes(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"int8", "int4", "fp8"}) - self.dtypes

    def devices(self) -> tuple[str, ...]:
        import torch

        return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

    def build(self, inputs: BuildInputs, path: Path) -> None:
        from compress import variant
        from compress.checkpoints import checkpoint
        from compress.quantization.sixteen_bits import shrink_state

        state = variant.convert(inputs.model, inputs.which.methods).state_dict()
        state = shrink_state(state) if inputs.which.dtype == "int8" else state
        checkpoint.save(path, replace(inputs.content, state=state, converted=True))

    def load(self, path: Path, device: str, threads: int, batch_size: int | None = None) -> EagerSession:
        from compress.runtimes.torch_session import EagerSession, restore

        return EagerSession(restore(path, device, threads), device)

    def inspect(self, path: Path, batch_size: int | None = None, device: str = "cpu") -> Inspection:
        from compress.runtimes.torch_session import inspect

        return inspect(path, device)
