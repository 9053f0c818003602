"""PyTorch through `torch.compile`. The artifact is that of eager PyTorch; it is compiled anew in every process.

Each input shape is compiled by itself, which takes seconds to minutes: the first call of a row says how long. Weights
are constants to the compiler ("freezing"). On CUDA whole passes are recorded as CUDA graphs, which is what helps
batches so small that launching kernels takes longer than running them.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from compress.runtimes.base import Inspection
from compress.runtimes.eager import Eager

if TYPE_CHECKING:
    from compress.runtimes.torch_session import CompiledSession


class Compiled(Eager):
    name = "torch.compile"
    batch_shapes = ("fixed",)
    static_shapes = compiles_long = True

    @cached_property
    def simulated_dtypes(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"fp8"}) - self.dtypes

    def devices(self) -> tuple[str, ...]:
        from compress.runtimes.torch_session import can_compile

        return tuple(device for device in super().devices() if can_compile(device))

    def load(self, path: Path, device: str, threads: int, batch_size: int | None = None) -> CompiledSession:
        from compress.runtimes.torch_session import CompiledSession, restore

        return CompiledSession(restore(path, device, threads), device)

    def inspect(self, path: Path, batch_size: int | None = None, device: str = "cpu") -> Inspection:
        from compress.runtimes.torch_session import compile_model, inspect

        return inspect(path, device, compile_model)
