"""What several processes, and what users without a home folder, leave behind: nothing lost, nobody left over."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import psutil
import pytest
from conftest import ROOT

from compress import files
from compress.runtimes import choices

WRITERS, LINES = 3, 60


def start(code: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)


def test_lines_of_several_writers_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    code = (
        "import sys; from pathlib import Path; from compress import files\n"
        f"for number in range({LINES}): files.append(Path({str(path)!r}), f'{{sys.argv}} {{number}}')"
    )
    running = [start(code) for _ in range(WRITERS)]
    assert [each.wait() for each in running] == [0] * WRITERS
    assert len(path.read_text().splitlines()) == WRITERS * LINES


def test_choices_of_several_writers_are_all_kept(tmp_path: Path) -> None:
    code = (
        "import os; from compress.runtimes import choices\n"
        "made = choices.Choice('m', 'c', 1, 1, 'onnxruntime: static', 2.0, 'why', {})\n"
        "for number in range(20): choices.remember(f'{os.getpid()} {number}', made)"
    )
    running = [start(code, XDG_CACHE_HOME=str(tmp_path)) for _ in range(WRITERS)]
    assert [each.wait() for each in running] == [0] * WRITERS
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert len(choices.load()) == WRITERS * 20


def test_a_worker_that_computes_ends_with_its_parent() -> None:
    code = (
        "import sys; import numpy as np; from compress.runtimes.client import Worker\n"
        f"worker = Worker([sys.executable, {str(ROOT / 'tests' / 'fake_worker.py')!r}, '0.1', 'hang_after=0'], 1)\n"
        "worker.put('batches', [np.zeros((1, 1, 4, 4), np.float32)])\n"
        "print(worker.process.pid, flush=True)\n"
        "worker.turn('batches', 0, 1)"
    )
    parent = start(code)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.5)  # it hangs in a forward pass by now
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    worker.wait(timeout=20)
    assert not worker.is_running()


def test_onnx_runtime_writes_nothing_below_the_home_folder(tmp_path: Path) -> None:
    graph = onnx.parser.parse_graph("g (float[1] x) => (float[1] y) { y = Neg(x) }")
    onnx.save(onnx.helper.make_model(graph, ir_version=10), tmp_path / "neg.onnx")
    (tmp_path / "home").mkdir()
    code = (
        "from pathlib import Path; from compress.runtimes import ort_session as ort\n"
        f"ort.open_session(Path({str(tmp_path / 'neg.onnx')!r}), ort.set_options(1))"
    )
    environment = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home" / ".cache")}
    assert start(code, **environment).wait() == 0
    assert [*(tmp_path / "home").rglob("*")] == []


def test_a_user_without_a_home_has_a_place_for_choices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert choices.locate().is_relative_to(tmp_path)
    assert choices.load() == {}


def test_folders_of_killed_processes_go_after_a_day(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ours = {kind: f"compress_scratch_{dead.pid}_{kind}12345" for kind in ("old", "new")}
    ours["alive"] = f"compress_scratch_{os.getpid()}_alive123"
    others = ["compress-2023-results", f"compress_scratch_{dead.pid}_unmarked", f"compress_scratch_{dead.pid}_results"]
    for name in (*ours.values(), *others):
        (tmp_path / name).mkdir()
    for name in ours.values():
        (tmp_path / name / files.MARK).touch()
    for name in (ours["old"], ours["alive"], *others):
        os.utime(tmp_path / name, (0, 0))
    with files.temporary_folder() as folder:
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {ours["new"], ours["alive"], folder.name, *others}
    assert not folder.exists()
