"""PyTorch through `torch.compile`. The artifact is that of eager PyTorch; it is compiled anew in every process.

Each input shape is compiled by itself, which takes seconds to minutes: the first call of a row says how long. Weights
are constants to the compiler ("freezing"). On CUDA whole passes are recorded as CUDA graphs, which is what helps
batches so small that launching kernels takes longer than running them.
"""

from pathlib import Path

import torch
from torch import nn

from compress.runtimes.base import Session
from compress.runtimes.eager import FLOAT8, INT8, Eager, EagerSession


class CompiledSession(EagerSession):
    def __init__(self, eager: EagerSession):
        super().__init__(eager.model, eager.device)
        mode = "reduce-overhead" if self.device.type == "cuda" else None
        self.model.compile(dynamic=False, mode=mode)

    def run(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():  # freezing does not happen in inference mode
            logits = self.model(images)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return logits


class Compiled(Eager):
    name, suffix = "torch.compile", ".pth"
    numbers = frozenset({"fp32", "bf16"}) | FLOAT8 | INT8
    simulates = frozenset({"fp8"}) - FLOAT8
    fixed_shapes = True

    def devices(self) -> tuple[str, ...]:
        return tuple(device for device in super().devices() if _can_compile(device))

    def load(self, path: Path, device: str, threads: int) -> Session:
        _set_compiler()
        eager = super().load(path, device, threads)
        assert isinstance(eager, EagerSession)
        return CompiledSession(eager)

    def as_run(self, model: nn.Module) -> nn.Module:
        _set_compiler()
        model.compile(dynamic=False)  # without CUDA graphs: what they replay, no profiler on the host sees
        return model


def _set_compiler() -> None:
    import torch._dynamo
    import torch._inductor.config

    torch._inductor.config.freezing = True
    torch._dynamo.config.recompile_limit = 64  # each timed batch size is a compilation of its own


def _can_compile(device: str) -> bool:
    """Whether the compiler that torch needs is here: of C++ for a CPU, Triton for CUDA."""
    if device == "cuda":
        from torch.utils._triton import has_triton

        return has_triton()
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return bool(get_cpp_compiler())
    except InvalidCxxCompiler:
        return False


RUNTIME = Compiled()
