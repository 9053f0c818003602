"""What a pickle of weights may make, as stand-ins: trees of plain values, and tensors that lie in their storages.

The rules are narrower than those of torch: these names and no others, nothing that is hooked, expanded, sparse or
quantized, no key that takes long to hash, no container inside of itself.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

MOST_TEXT = 64 * 2**20  # values and characters in a tree, each counted as often as it is met
DEEPEST = 100  # containers inside of one another
MOST_DIMENSIONS = 25
LARGEST = 2**48  # of a tensor's sizes
STORAGES = {  # classes -> bytes of an element
    **{f"torch {name}Storage": 1 for name in ("Bool", "Byte", "Char")},
    **{f"torch {name}Storage": 2 for name in ("Half", "BFloat16", "Short")},
    **{f"torch {name}Storage": 4 for name in ("Float", "Int")},
    **{f"torch {name}Storage": 8 for name in ("Double", "Long", "ComplexFloat")},
    "torch ComplexDoubleStorage": 16,
    "torch.storage UntypedStorage": 1,
}
DTYPES = {f"torch {name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
OPTIONS = "argparse Namespace"
CALLED = (
    "collections OrderedDict", "collections Counter", "torch Size", "torch device", "_codecs encode", "builtins set",
    "__builtin__ set", "builtins complex", "__builtin__ complex", "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3",
)  # fmt: skip
KNOWN = frozenset({*STORAGES, *DTYPES, OPTIONS, *CALLED})
ODD_TENSORS = ("torch._utils _rebuild", "torch._tensor _rebuild", "torch.serialization _get_layout")
AS_TENSORS = "save plain tensors: torch.save(model.state_dict(), 'weights.pth')"


class Refused(ValueError):
    """What a file holds that no weights need, to be said after its name."""


class Global(NamedTuple):
    """A class or function by its name; nothing is imported."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Numbers of a file in a row."""

    kind: str  # its class
    elements: int

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return STORAGES[self.kind]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.width * self.elements


@dataclass(frozen=True)
class TensorStub:
    """A tensor that lies within its storage."""

    shape: tuple[int, ...]


class Ordered(dict[Any, Any]):
    """An OrderedDict, which may have attributes."""

    attributes: Any = None


class Options(dict[str, Any]):
    """An `argparse.Namespace`."""


def allow_global(name: str) -> Global:
    """Raises Refused for a name that no weights need."""
    if name in KNOWN:
        return Global(name)
    told = name.replace("__builtin__", "builtins").replace(" ", ".")[:100]
    if name.startswith(ODD_TENSORS):
        raise Refused(f"holds tensors that are sparse, quantized or of a class of their own ({told}); {AS_TENSORS}")
    raise Refused(
        f"holds more than weights ({told}) and could run code when loaded, so it is refused; "
        "save its weights alone: torch.save(model.state_dict(), 'weights.pth')"
    )


def simulate_call(step: str, name: str, args: Any) -> Any:
    """What a call of something known gives; raises ValueError where it is not called as torch does."""
    if step == "NEWOBJ":
        if (name, args) != (OPTIONS, ()):
            raise ValueError(name)
        return Options()
    kinds = [type(each) for each in args]
    match name, kinds:
        case "torch._utils _rebuild_parameter", _:
            value, _, hooks = args
            if isinstance(value, TensorStub) and not hooks:
                return value
        case "torch._utils _rebuild_tensor" | "torch._utils _rebuild_tensor_v2" | "torch._utils _rebuild_tensor_v3", _:
            return simulate_tensor(*args, typed=name.endswith("_v3"))
        case "collections OrderedDict", []:
            return Ordered()
        case "collections Counter", [kind] if kind is dict:
            return dict(args[0])
        case "torch Size", [kind] if kind is tuple and all(map(is_size, args[0])):
            return args[0]
        case "_codecs encode", [kind, _] if kind is str and args[1] == "latin1":
            return args[0].encode("latin1")
        case (("builtins set" | "__builtin__ set"), [kind]) if kind is list and all(map(is_key, args[0])):
            return args[0]
        case (("builtins complex" | "__builtin__ complex"), [_, _]) if {*kinds} <= {int, float}:
            return 0.0
        case "torch device", [kind, *_] if kind is str and len(args[0]) <= 40 and {*kinds[1:]} <= {int}:
            return 0.0
    raise ValueError(name)


def simulate_tensor(storage: Storage, offset: int, shape: Any, strides: Any, *rest: Any, typed: bool) -> TensorStub:
    """A tensor within its storage.

    Args:
        rest: whether it needs a gradient, its hooks, its numbers where it is `typed`, and what else is known of it.

    Raises:
        Refused: it is larger than what it lies in, or has hooks.
        ValueError: it is none.
    """
    width = storage.width
    if typed:
        width, rest = DTYPES[rest[2].name].itemsize, (*rest[:2], *rest[3:])
    if any(rest[1:]):
        raise Refused(f"holds tensors with hooks or further attributes; {AS_TENSORS}")
    if len(shape) != len(strides) or len(shape) > MOST_DIMENSIONS or not all(map(is_size, (offset, *shape, *strides))):
        raise ValueError("no tensor")
    count = math.prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if count and max(last + 1, count) * width > storage.size:
        raise Refused(f"holds a tensor of {count:,} values that lies in {storage.size:,} bytes; {AS_TENSORS}")
    return TensorStub(tuple(shape))


def extend(target: Any, items: list[Any]) -> None:
    """Puts values into a list, or keys and values by turns into a dictionary; raises ValueError for anything else."""
    if type(target) is list:
        target.extend(items)
        return
    if type(target) not in (dict, Ordered) or not all(map(is_key, items[::2])):
        raise ValueError("no place, or no key")
    target.update(zip(items[::2], items[1::2], strict=True))


def attach(target: Any, state: Any) -> None:
    """Attributes: whatever options are there, and of an OrderedDict what modules note, nothing in place of a method."""
    if type(state) is not dict or not all(isinstance(name, str) for name in state):
        raise ValueError("no attributes")
    if type(target) is Options:
        target.update(state)
    elif type(target) is Ordered and state.keys() <= {"_metadata"}:
        target.attributes = state
    else:
        raise ValueError("no attributes")


def is_key(value: Any) -> bool:
    """Whether it is hashed in no time: a name, a number, or a few of them together."""
    if type(value) is tuple:
        return len(value) <= 8 and not any(type(each) is tuple for each in value) and all(map(is_key, value))
    return value is None or isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 2**63)


def is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST


def is_bounded(root: Any) -> bool:
    """Whether no container holds itself, and a tree has a reasonable size when it is written out."""
    extents: dict[int, tuple[int, int]] = {}  # of finished containers, by identity: values and characters, depth
    opened: set[int] = set()
    pending = [root]
    while pending:
        value = pending[-1]
        if id(value) in extents:
            pending.pop()
            continue
        below = [each for each in _list_values(value) if isinstance(each, dict) or type(each) in (list, tuple)]
        if id(value) not in opened:
            opened.add(id(value))
            if any(id(each) in opened and id(each) not in extents for each in below):
                return False
            if len(opened) - len(extents) > DEEPEST:  # those that are open lie inside of one another
                return False
            pending += [each for each in below if id(each) not in extents]
            continue
        leaves = sum(1 + (len(each) if isinstance(each, str | bytes) else 0) for each in _list_values(value))
        deepest = max((extents[id(each)][1] for each in below), default=0)
        extents[id(value)] = leaves + sum(extents[id(each)][0] for each in below), deepest + 1
        if extents[id(value)][0] > MOST_TEXT or deepest >= DEEPEST:
            return False
    return True


def _list_values(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value
        yield from value.values()
        yield getattr(value, "attributes", None)
    elif type(value) in (list, tuple):
        yield from value
