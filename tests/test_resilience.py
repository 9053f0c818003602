"""What goes wrong in the middle of a bench costs its own row, and the same command goes on afterwards."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Run

from compress.cli import main
from compress.evaluate import images, processes
from compress.runtimes.client import Worker
from reports import Row, parse_rows

pytestmark = pytest.mark.usefixtures("no_plots")


def rows_of(out: Path) -> list[Row]:
    path = out / "rows.jsonl"
    return parse_rows(path.read_text(), path.name) if path.exists() else []


@pytest.fixture
def out(run: Run, tmp_path: Path) -> Path:
    """A run directory with trained models and no measurements."""
    shutil.copytree(run.out, tmp_path / "run")
    (tmp_path / "run" / "rows.jsonl").unlink()
    return tmp_path / "run"


def start(*args: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "compress", "bench", *args]
    kinds = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT, "text": True}
    return subprocess.Popen(command, **{**kinds, **options})  # type: ignore[call-overload]


def workers_of(parent: int, artifact: str) -> Iterator[int]:
    """Process ids of the workers of a bench that run a file of that name."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(status.rpartition(")")[2].split()[1]) == parent and f"/{artifact}\0".encode() in command:
            yield int(folder.name)


def test_a_worker_that_is_killed_again_and_again_costs_its_row_alone(
    run: Run, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    args = [*run.args[:-3], "--no-plain", "--out", str(out), "--runtime", "onnxruntime"]
    with start(*args) as bench:
        assert bench.stdout is not None
        timing = False
        for line in bench.stdout:
            timing = timing or line.startswith("timing")
            if timing:
                break
        while bench.poll() is None:
            for worker in workers_of(bench.pid, "avit_int8.onnx"):
                os.kill(worker, signal.SIGKILL)
            time.sleep(0.01)
        assert bench.returncode == 1
    vit, avit, int8 = rows_of(out)
    assert (vit.failed, avit.failed) == (None, None)
    assert min(len(row.latency_samples_s) for row in (vit, avit)) >= 15
    assert "SIGKILL" in (int8.failed or "")
    assert "SIGKILL" in (out / "report.md").read_text()

    assert main(["bench", *args]) == 0
    assert "training" not in capfd.readouterr().out
    assert [row.failed for row in rows_of(out)[3:]] == [None] * 3


def test_a_runtime_that_is_not_installed_costs_its_rows_alone(run: Run, out: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "onnxruntime.py").write_text("raise ImportError(\"No module named 'onnxruntime'\")\n")
    (out / "models").rename(tmp_path / "models")  # the graphs were checked when they were made
    args = [*run.args[:-1], str(out), "--variants", "vit,int8"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(broken), str(ROOT)])}
    bench = start(*args, env=environment)
    said, error = bench.communicate()
    assert (bench.returncode, error) == (1, "")
    assert "pip install onnxruntime" in said
    rows = {(row.variant, row.runtime): row for row in rows_of(out)}
    assert rows["vit", "torch"].failed is None
    assert rows["vit", "torch"].latency_s
    for variant in ("vit", "int8"):
        assert "No module named 'onnxruntime'" in (rows[variant, "onnxruntime"].failed or "")
    assert main(["bench", *args]) == 0
    assert not [row for row in rows_of(out)[len(rows) :] if row.failed]

    asked = start(*args, "--runtime", "onnxruntime", env=environment)
    assert asked.communicate()[1].startswith("error: --runtime onnxruntime cannot be used")
    assert asked.returncode == 2


def test_a_batch_that_memory_does_not_hold_becomes_smaller_and_says_so(
    run: Run, out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The engine is a stand-in that runs out of memory above 8 images, as a GPU does."""
    script = Path(__file__).with_name("fake_worker.py")

    def begin(runtime: str, _artifact: Path, *_: object) -> Worker:
        fits = "fits=8" if runtime == "torch" else "fits=1000"
        return Worker([sys.executable, str(script), "0.01", fits], threads=1)

    monkeypatch.setattr(processes.Worker, "start", begin)
    args = [*run.args[:-1], str(out), "--batch-size", "16", "--variants", "vit"]
    assert main(["bench", *args]) == 0
    assert "batch 16 on cpu does not fit into memory: CUDA out of memory" in capfd.readouterr().out
    rows = rows_of(out)
    assert [(row.runtime, row.batch_size, row.failed) for row in rows] == [("torch", 8, None), ("onnxruntime", 8, None)]
    for row in rows:
        assert "a batch of 16 did not fit into memory; 8 is measured" in row.warnings
        assert row.n_images == 360  # scored all the same, in batches that fit
        assert images.LARGEST_BATCH > 8


def test_ctrl_c_leaves_whole_rows_and_the_same_command_goes_on(
    run: Run, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    args = [*run.args[:-1], str(out), "--batch-size", "1,4", "--seconds", "2", "--precision", "0.01%"]
    args += ["--variants", "vit"]
    bench = start(*args, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    while not (out / "rows.jsonl").exists():  # batch 1 is done, batch 4 has begun
        assert bench.poll() is None
        time.sleep(0.02)
    bench.send_signal(signal.SIGINT)
    assert bench.communicate()[1] == "stopped; run the same command again to resume\n"
    assert bench.returncode == 130
    assert [row.batch_size for row in rows_of(out)] == [1, 1]
    assert not [*workers_of(1, "vit.onnx")]

    assert main(["bench", *args]) == 0
    assert "batch 1 on cpu: measured before" in capfd.readouterr().out
    assert [row.batch_size for row in rows_of(out)] == [1, 1, 4, 4]
