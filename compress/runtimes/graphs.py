"""PyTorch with whole passes recorded as CUDA graphs: kernels of eager PyTorch, launched all at once.

At small batches launching kernels takes longer than running them, and nothing has to be compiled to spare that. The
artifact is that of eager PyTorch. A pass is recorded for each shape of batches, the first time that it comes; so the
number of tokens may not depend on the image.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compress.runtimes.eager import Eager

if TYPE_CHECKING:
    from compress.runtimes.torch_session import GraphSession


class Graphs(Eager):
    name = "torch.cudagraphs"
    static_shapes = True

    def devices(self) -> tuple[str, ...]:
        return tuple(device for device in super().devices() if device == "cuda")

    def load(self, path: Path, device: str, threads: int, batch_size: int | None = None) -> GraphSession:
        from compress.runtimes.torch_session import GraphSession, restore

        return GraphSession(restore(path, device, threads), device)
