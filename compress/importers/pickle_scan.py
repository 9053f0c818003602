"""What torch would make of a pickle, found out without making it.

`torch.load(weights_only=True)` runs no code, but it believes what it reads: a few bytes can ask for storages of any
size, for tensors larger than what they lie in, for dictionaries inside of themselves, for keys that take years to hash.
So each pickle is read first, step by step as torch would, with stubs for what it makes. Allowed are trees of plain
values, and tensors that lie in their storages: nothing that is hooked, expanded, sparse or quantized. picklescan and
fickling look at the names of what is called alone, and Python's unpickler in C sets memory aside before anybody can
object; the one in Python does not.
"""

import itertools
import math
import pickle
import pickletools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import torch
from torch.serialization import StorageType

from baselines.errors import InputError
from compress.importers.integrity import REMEDY, refuse_damaged
from compress.importers.stand_ins import STAND_INS, NumberType

LONGEST = 64 * 2**20  # bytes of a pickle; that of a model with its optimizer has less than one
MOST_STEPS = 1_000_000
MOST_BYTES = 64 * 2**20  # of a tree, each value and character counted as often as it is met
VALUE_BYTES = 32
DEEPEST = 100  # containers inside of one another
MOST_DIMENSIONS = 25
LARGEST = 2**48  # of a tensor's sizes
STEPS = (  # those of torch
    "APPEND APPENDS BINFLOAT BINGET BININT BININT1 BININT2 BINPERSID BINPUT BINUNICODE BUILD EMPTY_DICT EMPTY_LIST "
    "EMPTY_TUPLE GLOBAL LONG1 LONG_BINGET LONG_BINPUT MARK NEWFALSE NEWOBJ NEWTRUE NONE PROTO REDUCE SETITEM SETITEMS "
    "SHORT_BINSTRING STOP TUPLE TUPLE1 TUPLE2 TUPLE3"
)
KINDS = "Bool Byte Char Half BFloat16 Short Float Int Double Long ComplexFloat ComplexDouble"
ODD_TENSORS = ("torch._utils._rebuild", "torch._tensor._rebuild", "torch.serialization._get_layout")
AS_TENSORS = "save plain tensors: torch.save(model.state_dict(), 'weights.pth')"
PythonUnpickler: Any = pickle._Unpickler  # whose methods type checkers do not know


class Refused(ValueError):
    """What a file holds that no weights need, to be said after its name."""


@dataclass(frozen=True)
class Storage:
    """Numbers of a file in a row."""

    size: int  # bytes
    width: int  # bytes of a number


class Ordered(dict[Any, Any]):
    """An OrderedDict, made empty."""

    def __init__(self) -> None:
        super().__init__()


class Options(Ordered):
    """An `argparse.Namespace`."""


def scan_pickle(path: Path, file: IO[bytes], storages: dict[str, Storage]) -> Any:
    """What the next pickle stands for, with stubs for tensors.

    Args:
        path: for messages.
        storages: by key; those that the pickle speaks of are added.

    Raises:
        InputError: it is damaged, or asks for something that no weights need.
    """
    try:
        check_steps(file)
        tree = StubUnpickler(file, storages).load()
        check_extent(tree)
    except Refused as error:
        raise InputError(f"{path} {error}") from error
    except Exception as error:  # whatever a wrong order of steps leads to
        raise refuse_damaged(path) from error
    return tree


def check_steps(file: IO[bytes]) -> None:
    """Raises Refused where the next pickle has too many steps, or is of another protocol."""
    start = file.tell()
    for count, (step, value, _) in enumerate(pickletools.genops(file)):
        if step.name == "PROTO" and value != 2:
            raise Refused(f"is written in pickle protocol {value}; save it anew, with that of torch.save")
        if count >= MOST_STEPS:
            raise Refused(f"holds more values than any model has, so it is refused; {REMEDY}")
    file.seek(start)


def check_extent(tree: Any) -> None:
    """Raises Refused where a container holds itself, or a tree is too deep or too large when it is written out."""
    left = MOST_BYTES

    def visit(value: Any, depth: int) -> None:
        nonlocal left
        left -= VALUE_BYTES + (len(value) if isinstance(value, str | bytes) else 0)
        if left < 0 or depth > DEEPEST:
            what = "holds values that contain themselves, or that grow beyond all bounds"
            raise Refused(f"{what}, so it is refused; {REMEDY}")
        if isinstance(value, dict):
            value = itertools.chain(value, value.values())
        elif not isinstance(value, list | tuple):
            return
        for each in value:
            visit(each, depth + 1)

    visit(tree, 0)


class StubUnpickler(PythonUnpickler):
    """Takes the steps that torch takes, and makes stubs. What is no step of a whole file raises whatever error."""

    def __init__(self, file: Any, storages: dict[str, Storage]):
        super().__init__(file)
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        return find_stub(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Storage:
        mark, kind, key, _place, elements, *view = pid
        found = Storage(elements * kind.dtype.itemsize, kind.dtype.itemsize)
        if mark != "storage" or not isinstance(key, str) or not is_size(elements) or any(view):
            raise ValueError("no storage")
        if self.storages.setdefault(key, found) != found:
            raise ValueError("a storage that contradicts itself")
        return found

    def load_setitem(self) -> None:
        check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        check_keys(self.stack[::2])
        super().load_setitems()

    def load_build(self) -> None:
        """Attributes: whatever options are there, and of an OrderedDict what modules note, which hides no method."""
        state, target = self.stack.pop(), self.stack[-1]
        free = type(target) is Options or (type(target) is Ordered and state.keys() <= {"_metadata"})
        if type(target) is NumberType:
            target.__setstate__(state)
        elif free and type(state) is dict and all(isinstance(name, str) for name in state):
            target[object()] = state  # beside its values
        else:
            raise ValueError("no attributes")

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code[0]: PythonUnpickler.dispatch[code[0]] for code in (getattr(pickle, name) for name in STEPS.split())
    } | {pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems, pickle.BUILD[0]: load_build}


def find_stub(name: str) -> Any:
    """What stands for a class or function; raises Refused for one that no weights need."""
    if name in STUBS:
        return STUBS[name]
    told = name.replace("__builtin__", "builtins")[:100]
    if name.startswith(ODD_TENSORS):
        raise Refused(f"holds tensors that are sparse, quantized or of a class of their own ({told}); {AS_TENSORS}")
    raise Refused(
        f"holds more than weights ({told}) and could run code when loaded, so it is refused; "
        "save its weights alone: torch.save(model.state_dict(), 'weights.pth')"
    )


def make_tensor(storage: Storage, offset: int, shape: Any, strides: Any, _gradient: Any = None, *more: Any) -> Storage:
    """A tensor within its storage, which stands for it.

    Args:
        more: its hooks, and what else is known of it.

    Raises:
        Refused: it is larger than what it lies in, or has hooks.
        ValueError: it is none.
    """
    if any(more):
        raise Refused(f"holds tensors with hooks or further attributes; {AS_TENSORS}")
    if len(shape) != len(strides) or len(shape) > MOST_DIMENSIONS or not all(map(is_size, (offset, *shape, *strides))):
        raise ValueError("no tensor")
    count = math.prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if count and max(last + 1, count) * storage.width > storage.size:
        raise Refused(f"holds a tensor of {count:,} values that lies in {storage.size:,} bytes; {AS_TENSORS}")
    return storage


def make_typed_tensor(
    storage: Storage, offset: int, shape: Any, strides: Any, gradient: Any, hooks: Any, dtype: torch.dtype, *more: Any
) -> Storage:
    """A tensor whose numbers are others than its storage says."""
    return make_tensor(Storage(storage.size, dtype.itemsize), offset, shape, strides, gradient, hooks, *more)


def make_parameter(tensor: Any, _gradient: Any, hooks: Any) -> Storage:
    if hooks or not isinstance(tensor, Storage):
        raise ValueError("no parameter")
    return tensor


def make_bytes(text: str, codec: str) -> bytes:
    if codec != "latin1":
        raise ValueError(codec)
    return text.encode(codec)


def make_set(values: Any) -> Any:
    check_keys(values)
    return values


def check_keys(values: Iterable[Any]) -> None:
    """Raises ValueError unless they are hashed in no time: names, numbers, or a few of them together."""
    for value in values:
        for each in value if type(value) is tuple and len(value) <= 8 else (value,):
            if not (each is None or isinstance(each, str | float) or (isinstance(each, int) and abs(each) < 2**63)):
                raise ValueError("no key")


def is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST


STUBS: dict[str, Any] = {
    **{f"torch.{kind}Storage": StorageType(f"{kind}Storage") for kind in KINDS.split()},
    "torch.storage.UntypedStorage": StorageType("ByteStorage"),
    **{f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
    "argparse.Namespace": Options,
    **STAND_INS,
    "collections.OrderedDict": Ordered,
    "collections.Counter": make_set,
    "torch.Size": tuple,
    "torch.device": torch.device,
    "_codecs.encode": make_bytes,
    **{f"{module}.set": make_set for module in ("builtins", "__builtin__")},
    **{f"{module}.complex": complex for module in ("builtins", "__builtin__")},
    "torch._utils._rebuild_parameter": make_parameter,
    "torch._utils._rebuild_tensor": make_tensor,
    "torch._utils._rebuild_tensor_v2": make_tensor,
    "torch._utils._rebuild_tensor_v3": make_typed_tensor,
}
