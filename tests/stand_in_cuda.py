"""A CUDA device without hardware: tensors that say they are on it, and whose arithmetic a CPU does.

Torch's own `FakeTensorMode` knows shapes but no values, and so follows no code that depends on data. Here all values
are there, gradients too. A tensor is on the stand-in if its storage says so; what comes out of an operator is where
its inputs are. Two modes take part: one sees functions of Python, in which devices are named and asked for, the other
every operator, in which devices may not be mixed. What makes the host wait for the device is written down.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
ROOT = Path(__file__).parents[1]
OURS = tuple(str(ROOT / folder) for folder in ("baselines", "compress"))
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
SCALED = (aten.fill_.Tensor, aten.masked_fill_.Tensor, aten.masked_fill.Tensor)
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "_unique2", "repeat_interleave"}
GETTERS: dict[Any, Callable[[torch.device], Any]] = {
    torch.Tensor.device.__get__: lambda place: place,  # pyright: ignore[reportAttributeAccessIssue]
    torch.Tensor.is_cuda.__get__: lambda place: place == CUDA,  # pyright: ignore[reportAttributeAccessIssue]
    torch.Tensor.is_cpu.__get__: lambda place: place == CPU,  # pyright: ignore[reportAttributeAccessIssue]
}
GROUP = torch._C._group_tensors_by_device_and_dtype
HOST_ONLY = (torch.Tensor.numpy, torch.Tensor.__array__)  # pyright: ignore[reportAttributeAccessIssue]
FOLLOWING = (torch.Tensor.new_tensor, torch.Tensor.__deepcopy__, torch.Tensor.new_empty)  # not seen as operators


def place_of(x: Tensor) -> torch.device:
    if type(x) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer) or x.is_meta:
        return getattr(x, "place", CPU)
    return getattr(x.untyped_storage(), "place", CPU)


def put(x: Any, place: torch.device) -> Any:
    for each in tree_leaves(x):
        if type(each) in (Tensor, torch.nn.Parameter) and not each.is_meta:
            each.untyped_storage().place = place
    return x


class StandIn:
    """What is seen of one stretch of code: `waits`, each as (what, file, function)."""

    def __init__(self) -> None:
        self.waits: set[tuple[str, str, str]] = set()

    @property
    def where(self) -> set[tuple[str, str]]:
        return {(file, function) for _, file, function in self.waits if file}

    def wait(self, what: str) -> None:
        frame: Any = sys._getframe()
        while frame is not None and not (frame.f_code.co_filename.startswith(OURS) and frame.f_code.co_name[0] != "<"):
            frame = frame.f_back
        if frame is None:
            place = ("", "")
        else:
            place = (Path(frame.f_code.co_filename).relative_to(ROOT).as_posix(), frame.f_code.co_name)
        self.waits.add((what, *place))


class Functions(TorchFunctionMode):
    def __init__(self, seen: StandIn):
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in GETTERS:
            real = func(*args)
            return GETTERS[func](place_of(args[0])) if not args[0].is_meta else real
        here = place_of(args[0]) if args and isinstance(args[0], Tensor) else CPU
        if func in HOST_ONLY and here == CUDA:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
        if func is torch.Tensor.tolist and here == CUDA:
            self.seen.wait("tolist")
        if func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda):
            return self.move(func, here, *args, **kwargs)
        asked = kwargs.get("device")
        if asked is not None and torch.device(asked).type == "cuda":
            made = func(*args, **{**kwargs, "device": CPU})
            if func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor):
                self.seen.wait("torch.tensor")
            return put(made, CUDA)
        made = func(*args, **kwargs)
        if func in FOLLOWING and here == CUDA and asked is None:
            if func is torch.Tensor.new_tensor:
                self.seen.wait("torch.tensor")
            put(made, here)
        return put(made, CPU) if func in (torch.from_numpy, torch.tensor) else made

    def move(self, func: Any, here: torch.device, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`Tensor.to` and its short forms, which copy if the device is another one."""
        if func is not torch.Tensor.to:
            args = (CPU if func is torch.Tensor.cpu else CUDA, *args)
        if args and isinstance(args[0], Tensor):
            args = (place_of(args[0]), args[0].dtype, *args[1:])
        copy = kwargs.pop("copy", False)  # which `_parse_to` refuses
        asked, dtype, later, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        aim = here if asked is None else torch.device(asked.type, 0) if asked.type == "cuda" else asked
        copied = torch.Tensor.to(x, dtype=dtype or x.dtype, memory_format=memory_format or torch.preserve_format,
                                 copy=copy or aim != here)  # fmt: skip
        if aim != here:
            if aim == CPU or not later:
                self.seen.wait("to the host" if aim == CPU else "to the device")
            put(copied, aim)
        return copied


class Operators(TorchDispatchMode):
    def __init__(self, seen: StandIn):
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if any(kind not in (Tensor, torch.nn.Parameter, torch.nn.Buffer) for kind in types):
            return NotImplemented  # nested tensors take themselves apart
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor) and not each.is_meta]
        place = self.common(func, args, tensors)
        if place == CUDA:
            self.note(func, args)
        if func.namespace == "compress":  # its body is looked at too
            with self:
                made = OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
        else:
            made = func(*args, **kwargs)
        known = {each.untyped_storage()._cdata for each in tensors}
        for each in tree_leaves(made):
            if isinstance(each, Tensor) and not each.is_meta and each.untyped_storage()._cdata not in known:
                put(each, place)
        return made

    def common(self, func: Any, args: Any, tensors: list[Tensor]) -> torch.device:
        """The device of an operator, by the rules of torch: a number of the host goes along in pointwise ones."""
        if func in COPIES:
            return place_of(args[0])
        if func in INDEXING and place_of(args[0]) == CUDA:  # indices of the host are sent
            tensors = [args[0], *(each for each in args[2:3] if each.ndim)]
        free = torch.Tag.pointwise in func.tags or "_foreach" in str(func) or func in SCALED
        written = args[0] if func._schema.is_mutable else None
        places = {
            place_of(each) for each in tensors if each.ndim or place_of(each) == CUDA or not free or each is written
        }
        if len(places) > 1:
            raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu in {func}")
        return places.pop() if places else CPU

    def note(self, func: Any, args: Any) -> None:
        name = func._schema.name.split("::")[1]
        if name in WAITING and func is not aten.repeat_interleave.self_int:
            self.seen.wait(name)
        if func in INDEXING:
            chosen = [each for each in args[1] if each is not None]
            if any(each.dtype in (torch.bool, torch.uint8) for each in chosen):
                self.seen.wait("mask")
            if any(place_of(each) == CPU and each.ndim for each in chosen):
                self.seen.wait("to the device")


def group(lists: Any, with_indices: bool = False) -> Any:
    """As torch does, by devices that tensors say they are on."""
    found = GROUP(lists, with_indices)
    return {(place_of(tensors[0][0]), dtype): (tensors, rest) for (_, dtype), (tensors, rest) in found.items()}


@contextmanager
def stand_in_cuda() -> Iterator[StandIn]:
    """What runs inside has a device `cuda`."""
    seen = StandIn()
    with mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", group), Functions(seen), Operators(seen):
        yield seen


class Recording(TorchDispatchMode):
    """What a CUDA graph records: operators with the tensors they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, made))
        return made


class Graph:
    """`torch.cuda.CUDAGraph`: the same operators once more, on the same tensors and into the same ones."""

    recording: Recording | None = None

    def replay(self) -> None:
        assert self.recording is not None
        for func, args, kwargs, made in self.recording.calls:
            new = func(*args, **kwargs)
            read = {each.untyped_storage()._cdata for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
            for old, each in zip(tree_leaves(made), tree_leaves(new), strict=True):
                if isinstance(old, Tensor) and old.untyped_storage()._cdata not in read:  # no view, not in place
                    old.copy_(each)


class Stream:
    def wait_stream(self, other: "Stream") -> None:
        assert isinstance(other, Stream)


@contextmanager
def stand_in_graphs(seen: StandIn) -> Iterator[None]:
    """`torch.cuda` of a device inside, as far as CUDA graphs need it; nothing may wait while one is recorded."""

    @contextmanager
    def record(graph: Graph) -> Iterator[None]:
        before, seen.waits, graph.recording = seen.waits, set(), Recording()
        with graph.recording:
            yield
        if seen.waits:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing: {seen.waits}")
        seen.waits = before

    with mock.patch.multiple(
        torch.cuda, CUDAGraph=Graph, Stream=Stream, graph=record, current_stream=Stream, stream=lambda _: nullcontext()
    ):
        yield
