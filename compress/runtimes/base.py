"""What an engine is: a file on disk -> something that can be called. Needs no torch."""

from __future__ import annotations

import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from baselines.cpu import cpu_flags
from baselines.resizing import STRETCHED

if TYPE_CHECKING:
    from torch import Tensor

    from baselines.classifier import Classifier
    from compress.checkpoints.checkpoint import Checkpoint
    from compress.methods import Method
    from compress.variant import Variant


@dataclass(frozen=True)
class Inspection:
    """What the kernels of a runtime do with an artifact, as read from the runtime."""

    executed: str  # fp32, bf16, int8, int4, fp8, or int8-simulated and the like
    integer_share: float | None = None  # of the MACs, in integer kernels; None where none were meant to be
    notes: tuple[str, ...] = ()  # what a reader should know


def overflow_notes() -> tuple[str, ...]:
    """A warning where x86 engines add two products of 8 bits in 16, which the largest of them overflow."""
    flags = cpu_flags()
    if "avx2" not in flags or flags & {"avx512_vnni", "avx_vnni", "amx_int8"}:
        return ()
    return ("this processor has no VNNI: sums of int8 products may overflow 16 bits in an engine; compare top-1",)


def check_batch(path: Path, taken: int | None, asked: int | None) -> None:
    """Raises RuntimeError where a file takes another batch size alone (None: any) than is asked for (None: any)."""
    if taken is not None and asked is not None and taken != asked:
        raise RuntimeError(f"{path.name} takes batches of {taken} alone, not of {asked}; export it anew")


def peak_resident_bytes() -> int:
    """Most memory this process held. Linux's `ru_maxrss` would begin with the parent's: it survives `exec`."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


@dataclass(frozen=True)
class BuildInputs:
    """What an artifact is made of.

    Args:
        model: trained, and not yet converted.
        which: the methods that were applied to it.
        images: normalized real images for checks, (n, C, height, width), n >= 10.
        calibration: normalized training images in batches, for a runtime that quantizes a graph itself.
    """

    model: Classifier
    which: Variant
    content: Checkpoint
    images: Tensor
    calibration: Sequence[Tensor] = ()


def describe_images(content: Checkpoint) -> str:
    """Lines of Python that make an image as a model takes it."""
    shape = 1, content.config.channels, *content.config.image_size
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (content.mean, content.std))
    how = (content.resizing or STRETCHED).describe(content.config.image_size)
    return (
        f"import numpy as np\n\n# {how}; pixels in [0, 1], minus ({mean}), divided by ({std})\n"
        f"images = np.zeros({shape}, np.float32)"
    )


class Session(ABC):
    """A loaded artifact. Inputs are moved to the device by `put`, outside what is timed."""

    device_name: str

    @abstractmethod
    def put(self, images: np.ndarray) -> Any:
        """Normalized images (B, C, height, width) float32 -> the engine's own input."""

    @abstractmethod
    def run(self, images: Any) -> Any:
        """One forward pass, finished when it returns -> logits (B, classes), the engine's own array."""

    @abstractmethod
    def get(self, logits: Any) -> np.ndarray:
        """Logits of `run` as an array on the host."""

    def peak_memory_bytes(self) -> int | None:
        """Most memory so far: resident in this process on a CPU, allocated on an accelerator; None if not known."""
        return peak_resident_bytes()


class Runtime(ABC):
    """An engine and the way from a model to its file.

    The module of a runtime imports its engine in functions only, so that all this can be asked where it is not
    installed, and in processes that must not hold it.
    """

    name: str
    packages: tuple[str, ...]  # of PyPI, that it imports by the same names
    extra: str | None = None  # of compress, that installs them; None where compress always does
    engine: str  # module whose import brings the engine, which is not part of the time of loading
    environment: Mapping[str, str] = {}  # variables of every process that imports its engine

    suffix: str  # of the artifacts it builds; runtimes with the same one share the artifact
    opens: tuple[str, ...] = ()  # further suffixes of files it loads
    side_files: Mapping[str, str] = {}  # suffix -> ending of the file beside it that may hold its weights

    dtypes: frozenset[str]  # in which its kernels compute products here: fp32, bf16, int8, int4, fp8
    simulated_dtypes: frozenset[str] = frozenset()  # whose rounding it computes in float, for their accuracy alone
    fallback_dtypes: tuple[str, ...] = ("fp32",)  # in which it may compute what is not in integers, when it is told
    dynamic_granularities: tuple[str, ...] = ()  # at which it finds scales of activations itself, worth trying
    quantizes: bool = False  # whether it makes integers of a float graph, of whatever architecture
    calibrates_itself: bool = False  # whether it sets ranges anew, instead of taking those of the model

    batch_shapes: tuple[str, ...] = ("dynamic",)  # of "fixed" and "dynamic", for which it compiles; the faster first
    static_shapes: bool = False  # whether each shape is compiled or recorded: no image may decide on tokens
    compiles_long: bool = False  # whether loading an artifact takes longer than measuring it
    pads_ragged: bool = False  # whether ragged attention computes all images of a batch at the length of the longest

    @abstractmethod
    def devices(self) -> tuple[str, ...]:
        """Devices this engine can use here."""

    def dtypes_on(self, device: str) -> frozenset[str]:
        """Those of `dtypes` that its kernels multiply on a device."""
        return self.dtypes

    @abstractmethod
    def build(self, inputs: BuildInputs, path: Path) -> None:
        """Writes the artifact of a model; its batch size is free.

        Raises:
            RuntimeError: the engine cannot be given such a model, or computes something else from it.
        """

    @abstractmethod
    def load(self, path: Path, device: str, threads: int, batch_size: int | None = None) -> Session:
        """Makes an artifact ready to be called.

        Args:
            batch_size: of all images that will come, for which the graph is compiled where `batch_shapes` has
                "fixed"; others ignore it. None: any.

        Raises:
            RuntimeError: the engine does not take the file, or the file takes another batch size alone.
        """

    @abstractmethod
    def inspect(self, path: Path, batch_size: int | None = None, device: str = "cpu") -> Inspection:
        """What the kernels really do with an artifact, loaded on that device for that batch size."""

    def write_usage(self, path: Path, content: Checkpoint, threads: int, device: str = "cpu") -> str:
        """Python that runs a file as it was measured here; `images` are normalized."""
        return (
            f"import compress\n{describe_images(content)}\n"
            f"model = compress.load({str(path)!r}, runtime={self.name!r}, device={device!r}, threads={threads})\n"
            "logits = model(images)\n"
        )

    def lowers(self, method: Method | None) -> bool:
        """Whether its kernels run what a method of numerics asks for; None: float32."""
        activations = getattr(method, "activations", "static")
        fallback = getattr(method, "fallback_dtype", "fp32")
        if (method.dtype if method else "fp32") not in self.dtypes or fallback not in self.fallback_dtypes:
            return False
        if method is not None and method.tuned and self.calibrates_itself:
            return False  # it would look for ranges again where training has found them
        return activations == "static" or (activations in self.dynamic_granularities and fallback == "fp32")

    def missing_packages(self) -> list[str]:
        """Those of `packages` that are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]

    def opens_file(self, path: Path) -> bool:
        """Whether it loads files of that name."""
        return path.name.endswith((self.suffix, *self.opens))
