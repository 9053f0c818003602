"""`compress quantize` that is ended says what is kept, and the same command goes on from that to the same files."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import ROOT
from rich.console import Console

from baselines.errors import InputError
from baselines.sources import load
from baselines.vit import VisionTransformer, ViTConfig
from compress import files, loading
from compress.checkpoints import checkpoint
from compress.cli import main
from compress.outcome import NOTHING_YET, Outcome, Stopped
from compress.verbs.quantize import Request, quantize
from compress.verbs.quantize.unfinished import keep_folder
from reports import read_rows

ONE = ["--mode", "static", "--runtime", "onnxruntime", "--threads", "1"]  # one integer file: no timing chooses
SHORT, LONG = ["--seconds", "0.1"], ["--seconds", "30"]
MOMENTS = [  # a line of the command, after which it is ended
    ("building vit in torch (1 of 3)", signal.SIGINT, 130, "stopped"),
    ("building int8 (static) in onnxruntime (3 of 3)", signal.SIGTERM, 143, "ended by SIGTERM"),
    ("timing 3 artifacts in turns", signal.SIGINT, 130, "stopped"),
]
Written = dict[str, bytes]


def read_written(folder: Path) -> Written:
    """What is there under a name that a finished command gives, or half a file has."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.suffix != ".pth"}


def count_left(folder: Path) -> int:
    """Processes that have anything of a folder open, or were started for it."""
    found = [each for each in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(each.info["cmdline"] or ())]
    return len([each for each in found if each.pid != os.getpid() and each.status() != psutil.STATUS_ZOMBIE])


def end_at(line: str, number: signal.Signals, args: list[str]) -> tuple[int, str]:
    """Exit code and last words of a command that gets a signal once it has said a line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "compress", "quantize", *args],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    with process:
        assert process.stdout is not None
        assert any(line in said for said in process.stdout)
        process.send_signal(number)
        said = process.communicate()[1]
    return process.returncode, said


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model that has learned nothing, in a folder of its own."""
    torch.manual_seed(0)
    vit = VisionTransformer(ViTConfig(image_size=8, patch_size=4, channels=1, dim=16, depth=1, heads=2, mlp_dim=16))
    content = loading.pack(vit, [], load("digits", (8, 8), 1), vit.config)
    checkpoint.save(path := tmp_path / "model" / "net.pth", content)
    return path


def test_whenever_it_is_ended_it_goes_on_to_the_same_files(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    args = [str(model), *ONE, *LONG]
    for line, number, code, word in MOMENTS:
        returned, said = end_at(line, number, args)
        kept = [*model.parent.glob("net-quantize/unfinished-*")]
        assert returned == code
        assert said.startswith(f"{word}; "), said
        assert (
            (f" kept in {kept[0]}: run the same command again to resume" in said) if kept else (NOTHING_YET in said)
        ), said
        assert said.count("\n") == 1
        assert read_written(model.parent) == {}
        assert not [*model.parent.rglob("rows.jsonl")]
        deadline = time.monotonic() + 10
        while count_left(model.parent):  # workers end within a second of their parent
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert said.startswith("stopped; 3 built files, 1 calibrated model and the accuracy of 3 kept in ")

    assert main(["quantize", *args]) == 0
    told = capfd.readouterr().out
    assert "which an interrupted run left: 3 built files, 1 calibrated model and the accuracy of 3" in told
    assert "loading what was built of int8 (static) in onnxruntime (3 of 3)" in told
    assert not re.search(r"^building", told, re.MULTILINE)
    assert not [*model.parent.glob("net-quantize/*unfinished-*")]
    assert all(row.failed is None and row.latency_s for row in read_rows(model.parent / "net-quantize" / "rows.jsonl"))

    (tmp_path / "whole").mkdir()
    whole = Path(shutil.copy(model, tmp_path / "whole" / model.name))
    assert main(["quantize", str(whole), *ONE, *SHORT]) == 0
    assert "interrupted" not in capfd.readouterr().out
    graphs = ("net.int8.onnx", "net.onnx")
    assert [read_written(model.parent)[name] for name in graphs] == [
        read_written(whole.parent)[name] for name in graphs
    ]


@pytest.mark.parametrize(
    ("options", "work"),
    [
        ({"mode": "qat"}, "compress.verbs.quantize.qat.finetuning.apply"),
        ({"mode": "static", "max_drop": 100.0}, "compress.verbs.quantize.accuracy_control.find"),
    ],
)
def test_a_method_is_not_settled_twice(
    model: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], work: str
) -> None:
    """Training, and the search for layers that stay float, are over once they are done."""
    request = Request(path=model, runtimes=("onnxruntime",), **options)
    seen: list[Any] = []

    def measure(request: Request, source: Any, method: Any, *_: Any) -> Outcome:
        seen.append((method, checkpoint.hash_state(source.calibrate(method).state_dict())))
        if len(seen) == 1:
            raise KeyboardInterrupt
        return Outcome()

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("it is done again")

    monkeypatch.setattr("compress.verbs.quantize._measure", measure)
    with pytest.raises(Stopped, match="kept in") as stopped:
        quantize(request, Console(quiet=True))
    assert "1 calibrated model" in str(stopped.value)
    monkeypatch.setattr(work, fail)
    quantize(request, Console(quiet=True))
    assert seen[0] == seen[1]
    assert not [*request.folder.iterdir()]


def interrupt(request: Request, key: str, name: str | None) -> str:
    """What is said where a command is interrupted that wrote a file, or none."""
    try:
        with keep_folder(request, key) as kept:
            assert kept is not None
            if name:
                (kept[0] / name).write_bytes(b"")
            raise KeyboardInterrupt
    except KeyboardInterrupt as stopped:
        return str(stopped)


def test_a_folder_is_kept_for_the_same_command_alone(tmp_path: Path) -> None:
    request = Request(path=tmp_path / "net.pth")
    assert interrupt(request, "a", None) == ""
    assert not request.folder.exists()
    assert "1 built file kept in" in interrupt(request, "a", "vit.pth.whole")
    assert "the accuracy of 1 kept in" in interrupt(request, "b", "scores_1.npz")
    with keep_folder(request, "a") as kept:
        assert kept is not None
        assert str(kept[1]) == "1 built file"
        with keep_folder(request, "a") as other:
            assert other is None  # it is in use
    with keep_folder(Request(path=request.path, resume=False), "b") as kept:
        assert kept is not None
        assert str(kept[1]) == ""
    assert not [*request.folder.iterdir()]


def test_an_error_leaves_nothing_and_old_folders_go(tmp_path: Path) -> None:
    request = Request(path=tmp_path / "net.pth")
    for name in ("old", "new"):
        interrupt(request, name, "vit.pth.whole")
    os.utime(request.folder / "unfinished-old", (0, 0))
    with pytest.raises(InputError), keep_folder(request, "other"):
        raise InputError("x")
    assert [each.name for each in request.folder.iterdir()] == ["unfinished-new"]


def test_files_that_belong_together_get_their_names_before_a_signal_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.replace

    def replace(self: Path, target: Path) -> Path:
        signal.raise_signal(signal.SIGINT)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    shells = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            files.write_together({tmp_path / "a": "1", tmp_path / "b": "2"})
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, shells)
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"a": "1", "b": "2"}
