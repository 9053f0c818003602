"""What stands for small values that trainings save beside weights: numbers of numpy, paths, times.

    {"model": ..., "best_acc": np.float64(0.93), "args": Namespace(out=Path("runs")), "saved": datetime.now()}

Neither numpy nor any other library is called for what a file names: these functions are, both when a pickle is looked
through and when torch reads it. Numbers become Python's; paths become texts; times are not needed and become None.
"""

import struct
from typing import Any

FORMATS = {  # codes of numpy: those of `struct`
    "f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b",
    "u8": "Q", "u4": "I", "u2": "H", "u1": "B", "b1": "?",
}  # fmt: skip
LONGEST_PATH = 4096  # characters
STATE = (None, None, None, -1, -1, 0)  # of the dtype of a plain number, behind its version and byte order


class NumberType:
    """A dtype of numpy for plain numbers."""

    def __init__(self, code: str, align: bool, copy: bool):
        if type(code) is not str or code not in FORMATS or type(align) is not bool or type(copy) is not bool:
            raise ValueError("no dtype of a number")
        self.format = FORMATS[code]

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 8 or state[1] not in ("<", "|") or state[2:] != STATE:
            raise ValueError("no dtype of a number")


def make_number(kind: NumberType, content: bytes) -> float | int | bool:
    """A scalar of numpy; raises ValueError or struct.error where it is none."""
    if type(kind) is not NumberType or type(content) is not bytes:
        raise ValueError("no number")
    return struct.unpack(f"<{kind.format}", content)[0]


def make_path(*parts: str) -> str:
    if not all(type(part) is str for part in parts) or sum(map(len, parts)) + len(parts) > LONGEST_PATH:
        raise ValueError("no path")
    return "/".join(parts)


def make_time(*_told: Any) -> None:
    return None


STAND_INS: dict[str, Any] = {
    "numpy.dtype": NumberType,
    **{f"numpy.{core}.multiarray.scalar": make_number for core in ("core", "_core")},
    **{
        f"{module}.{kind}Path": make_path
        for module in ("pathlib", "pathlib._local")
        for kind in ("", "Posix", "Windows", "PurePosix", "PureWindows")
    },
    **{f"datetime.{name}": make_time for name in ("datetime", "date", "time", "timedelta", "timezone")},
}
