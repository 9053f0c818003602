"""Numbers of numpy, paths and times beside weights: they load, by functions of ours, and nothing else does."""

import argparse
import datetime
import pickle
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import torch
from foreign_models import EXACT, build, converted, difference

from baselines.errors import InputError
from compress.importers import Hints, load_torch_file
from compress.importers.stand_ins import LONGEST_PATH

NUMBERS = [np.float64(0.93), np.float32(0.5), np.float16(2), np.int64(-7), np.int32(3), np.uint8(200), np.bool_(True)]


@pytest.mark.parametrize("legacy", [False, True])
def test_values_beside_weights_become_plain_ones(legacy: bool, tmp_path: Path) -> None:
    theirs = build("vit_tiny_patch16_224")
    args = argparse.Namespace(lr=np.float64(1e-3), out=Path("runs/one"), started=datetime.datetime(2026, 1, 2))
    beside = {"numbers": NUMBERS, "path": PureWindowsPath("a/b"), "took": datetime.timedelta(3), "args": args}
    torch.save({"model": theirs.state_dict(), **beside}, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    found = load_torch_file(tmp_path / "w.pth")
    assert [type(each) for each in found["numbers"]] == [float] * 3 + [int] * 3 + [bool]
    assert found["numbers"] == [each.item() for each in NUMBERS]
    assert (found["path"], found["took"], found["args"].out) == ("a/b", None, "runs/one")
    assert found["args"].lr == 1e-3
    assert difference(converted(tmp_path / "w.pth", Hints(heads=4)), theirs) <= EXACT


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Any, *given: Any, state: Any = None):
        self.made = (function, given) if state is None else (function, given, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.made


HALF = np.dtype("f8"), np.float64(1).tobytes()
SCALAR = np.float64(1).__reduce__()[0]
ODD = {
    "an array": np.arange(3),
    "objects": Call(np.dtype, "O8", False, True),
    "fields": np.dtype([("a", "f8")]),
    "texts": np.str_("a"),
    "a number cut short": Call(SCALAR, HALF[0], HALF[1][:4]),
    "a number of nothing": Call(SCALAR, 3, HALF[1]),
    "a dtype of its own": Call(np.dtype, "f8", False, True, state=(3, "<", None, None, ("a",), -1, -1, 63)),
    "an endless path": Call(Path, *["a" * 64] * LONGEST_PATH),
    "a path of numbers": Call(Path, 3),
    "a function": Call(Path.unlink, Path("a")),
}


@pytest.mark.parametrize("kind", ODD)
def test_anything_else_is_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(3)}, "odd": ODD[kind]}, tmp_path / "w.pth", pickle_module=pickle)
    with pytest.raises(InputError, match=r"^[^\n]{1,400}$"):
        load_torch_file(tmp_path / "w.pth")
