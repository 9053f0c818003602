"""Faults of users' code and of engines, signals, chatter of libraries: one line says what matters."""

import logging
import os
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from baselines import progress
from baselines.errors import InputError
from compress import cli
from compress.checkpoints import named_code, user_models
from compress.cli import surroundings, terminal

CODE = """\
import torch
from torch import nn

class Odd(BaseException):
    pass

class Net(nn.Module):
    pretrained_cfg = {"input_size": (1, 8, 8)}

    def __init__(self, fault=None):
        super().__init__()
        self.fault, self.head = fault, nn.Linear(64, 10)

    def forward(self, images):
        assert self.fault is None, "not like this"
        return self.head(images.flatten(1))

def asserting():
    return Net("forward")

def leaving():
    raise GeneratorExit

def odd():
    raise Odd("odd")

def dumb():
    class Dumb(Exception):
        def __str__(self):
            raise ValueError
    raise Dumb

def double():
    torch.set_default_dtype(torch.float64)
    return Net()
"""


@pytest.fixture(autouse=True)
def nobodys_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named_code, "_spec", None)  # whatever tests before have named


@pytest.fixture
def code(tmp_path: Path) -> Iterator[Path]:
    (path := tmp_path / "net.py").write_text(CODE)
    yield path
    user_models._import_code.cache_clear()  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("asserting", ["AssertionError: not like this", 'net.py, line 15: assert self.fault is None, "not like this"']),
        ("leaving", ["GeneratorExit", "net.py, line 22: raise GeneratorExit"]),
        ("odd", ["Odd: odd", 'net.py, line 25: raise Odd("odd")']),
        ("dumb", ["dumb() failed", "net.py, line 31: raise Dumb"]),
    ],
)
def test_users_code_that_fails_is_quoted(
    name: str, said: list[str], code: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    args = ["bench", "--model", f"{code}:{name}", "--data", "digits", "--out", str(tmp_path / "o")]
    options = [[], ["--debug"]] if name == "odd" else [[]]
    for option in options:
        assert cli.main([*args, *option]) == 2
        err = capfd.readouterr().err
        assert ("Traceback" in err) == bool(option)
        (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
        assert all(each in line for each in said), line


def test_a_default_dtype_that_users_code_changes_stays_its_own(code: Path) -> None:
    import torch

    module = user_models.load_module(f"{code}:double")
    assert {each.dtype for each in module.parameters()} == {torch.float32}
    assert torch.get_default_dtype() == torch.float32


def test_faults_of_our_own_keep_their_traceback() -> None:
    def fail() -> None:
        raise AssertionError

    with pytest.raises(AssertionError):
        terminal.guarded(fail)


def test_a_line_says_what_is_waited_for(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "PATIENCE_S", 0.01)
    with progress.say_while_waiting("a factory"):
        time.sleep(0.2)
    assert "still waiting for a factory" in capfd.readouterr().err


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_says_a_line(name: str, code: int, capfd: pytest.CaptureFixture[str]) -> None:
    number = getattr(signal, name)

    def work() -> Any:
        os.kill(os.getpid(), number)
        time.sleep(5)

    before = signal.signal(number, signal.SIG_DFL)
    try:
        with surroundings.prepare(debug=False):
            assert terminal.guarded(work) == code
        assert signal.getsignal(number) == signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)  # as under nohup
        with surroundings.prepare(debug=False):
            assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)
    assert f"ended by {name}; run the same command again to resume" in capfd.readouterr().err


def test_libraries_are_silent_unless_asked(capfd: pytest.CaptureFixture[str]) -> None:
    for debug in (False, True):
        with surroundings.prepare(debug=debug), warnings.catch_warnings(record=debug) as seen:
            warnings.warn("Palette images with Transparency", UserWarning, stacklevel=1)
            logging.getLogger("some.library").warning("no CUDA_HOME")
        assert bool(seen) == debug
        assert logging.root.manager.disable == 0
    assert "Palette" not in capfd.readouterr().err


def test_more_threads_than_processors_are_remarked_on(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--threads", "1000", "--variants", ","]) == 2
    assert "note: --threads 1000 on " in capfd.readouterr().err


def test_an_engine_that_cannot_run_a_graph_is_named() -> None:
    fault = type("NotImplemented", (Exception,), {"__module__": "onnxruntime.capi.state"})

    def fail() -> None:
        raise fault("no Erf(13)\nmore")

    said: list[str] = []
    assert terminal.guarded(fail, lambda text, code=2: said.append(text) or code) == 1
    assert said == ["ONNX Runtime cannot run the graph (no Erf(13))"]
    with pytest.raises(SystemExit):
        terminal.guarded(lambda: (_ for _ in ()).throw(SystemExit(3)))
    assert terminal.guarded(lambda: (_ for _ in ()).throw(typer.Exit(3))) == 3
    assert terminal.guarded(lambda: (_ for _ in ()).throw(InputError("no")), lambda *_: 2) == 2
