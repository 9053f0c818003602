"""What torch would make of a pickle, found out without making it.

`torch.load(weights_only=True)` runs no code, but it believes what it reads: a few bytes can ask for storages of any
size, for tensors larger than what they lie in, for dictionaries inside of themselves, for keys that take years to hash.
So each pickle is walked first, step by step as torch would, with stubs (`pickle_allowlist.py`) for what it makes.
picklescan and fickling look at the names of what is called alone, and Python's own unpickler hashes keys and sets
memory aside before anybody can object.
"""

import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from baselines.errors import InputError
from compress.importers import pickle_allowlist as allowlist
from compress.importers.integrity import REMEDY, refuse_damaged
from compress.importers.pickle_allowlist import Global, Refused, Storage

LONGEST = 64 * 2**20  # bytes of a pickle; that of a model with its optimizer has less than one
MOST_STEPS = 1_000_000
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = frozenset({"BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "LONG1"})
TAKEN = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}  # values from the stack
EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}


class BoundedFile:
    """A file of which no more than so many bytes are read."""

    def __init__(self, file: IO[bytes], most: int = LONGEST):
        self.file, self.left = file, most

    def read(self, count: int) -> bytes:
        self._spend(count)
        return self.file.read(count)

    def readline(self) -> bytes:
        line = self.file.readline(self.left + 1)
        self._spend(len(line))
        return line

    def _spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ValueError("the pickle is too long")


class PickleScan:
    """The steps of one pickle after another.

    Args:
        storage: takes what a pickle says of a storage (its class, its key, ...), and gives it where there is one.
    """

    def __init__(self, path: Path, storage: Callable[..., Storage]):
        self.path, self.storage = path, storage

    def scan(self, file: Any) -> Any:
        """What the next pickle stands for, with stand-ins for tensors.

        Args:
            file: that has `read` and `readline`.

        Raises:
            InputError: it is damaged, or asks for something that no weights need.
        """
        try:
            tree = self._walk(file)
        except Refused as error:
            raise InputError(f"{self.path} {error}") from error
        except Exception as error:  # whatever a wrong order of steps leads to
            raise refuse_damaged(self.path) from error
        if not allowlist.is_bounded(tree):
            what = "holds values that contain themselves, or that grow beyond all bounds"
            raise InputError(f"{self.path} {what}, so it is refused; {REMEDY}")
        return tree

    def _walk(self, file: Any) -> Any:
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[Any, Any] = {}
        arg: Any
        for step, (opcode, arg, _) in enumerate(pickletools.genops(file)):
            name = opcode.name
            if name in VALUES or name in CONSTANTS:
                stack.append(CONSTANTS.get(name, arg))
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[arg] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[arg])
            elif name in EMPTY:
                stack.append(EMPTY[name]())
            elif name == "MARK":
                marks.append(stack)
                stack = []
            elif name in ("TUPLE", "APPENDS", "SETITEMS"):
                items, stack = stack, marks.pop()
                stack.append(tuple(items)) if name == "TUPLE" else allowlist.extend(stack[-1], items)
            elif name in TAKEN:
                items = [stack.pop() for _ in range(TAKEN[name])][::-1]
                stack.append(tuple(items)) if name.startswith("TUPLE") else allowlist.extend(stack[-1], items)
            elif name == "GLOBAL":
                stack.append(allowlist.allow_global(arg))
            elif name == "BINPERSID":
                stack.append(self._find_storage(stack.pop()))
            elif name in ("REDUCE", "NEWOBJ"):
                args, called = stack.pop(), stack.pop()
                stack.append(allowlist.simulate_call(name, called.name, args))
            elif name == "BUILD":
                state = stack.pop()
                allowlist.attach(stack[-1], state)
            elif name == "STOP":
                return stack.pop()
            else:
                stack += _read_rare(name, arg)
            if step >= MOST_STEPS:
                raise Refused(f"holds more values than any model has, so it is refused; {REMEDY}")
        raise EOFError

    def _find_storage(self, told: Any) -> Storage:
        mark, kind, *rest = told
        if mark != "storage" or not isinstance(kind, Global) or kind.name not in allowlist.STORAGES:
            raise ValueError("no storage")
        return self.storage(kind.name, *rest)


def _read_rare(name: str, arg: Any) -> list[Any]:
    """What a rare step puts on the stack: text of Python 2, or nothing for the protocol."""
    if name == "SHORT_BINSTRING" and arg.isascii():
        return [arg]
    if name != "PROTO":
        raise ValueError(name)
    if arg != 2:
        raise Refused(f"is written in pickle protocol {arg}; save it anew, with that of torch.save")
    return []
