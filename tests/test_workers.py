"""Processes that run one artifact each: known times come back, and whatever happens to one is said in a sentence."""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from compress.measure import latency
from compress.runtimes.client import OutOfMemory, Worker, WorkerError

SCRIPT = Path(__file__).with_name("fake_worker.py")


def fake(seconds: float, *faults: str, patience_s: float = 60) -> Worker:
    return Worker([sys.executable, str(SCRIPT), str(seconds), *faults], threads=1, patience_s=patience_s)


def images(n: int) -> np.ndarray:
    return np.arange(n * 4, dtype=np.float32).reshape(n, 1, 2, 2)


def compete(workers: dict[str, Worker], **options: object) -> dict[str, latency.Timing]:
    for worker in workers.values():
        worker.put("batch", [images(1), images(2)])
    contestants = {name: partial(worker.turn, "batch") for name, worker in workers.items()}
    return latency.interleave(contestants, budget_s=0, **options)  # type: ignore[arg-type]


def test_known_times_come_back_over_the_pipe() -> None:
    with fake(0.020) as a, fake(0.022) as b:
        assert a.ready() == {"load_s": 0.0, "device_name": "a fake"}
        timings = compete({"a": a, "b": b})
        assert timings["a"].samples == pytest.approx([0.020] * len(timings["a"].samples))
        assert len(timings["a"].turns) == len(timings["b"].turns) == 15
        middle, low, high = latency.speedup(timings["a"], timings["b"]) or (0, 0, 0)
        assert middle == pytest.approx(1 / 1.1)
        assert low < middle < high < 1  # exactly a tenth more work is found slower, with the truth inside


def test_predictions_are_the_largest_logits_of_what_was_sent() -> None:
    batch = images(3)
    batch[1, 0, 0, 1] = 99
    with fake(0) as worker:
        assert worker.predict(batch).tolist() == [3, 1, 3]
        assert worker.peak_memory_bytes() > 10e6


def test_threads_are_pinned_and_the_environment_is_passed_on() -> None:
    code = "import os, sys; print(os.environ['OMP_NUM_THREADS'], os.environ['EXTRA'], file=sys.stderr); sys.exit(3)"
    with (
        Worker([sys.executable, "-c", code], threads=7, environment={"EXTRA": "x"}) as worker,
        pytest.raises(WorkerError, match="exit code 3: 7 x"),
    ):
        worker.ready()


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        (["broken=the file is torn"], "^the file is torn$"),
        (["die_after=2"], r"ended by SIGKILL .*memory"),
        (["hang_after=2"], "no answer in 3 s"),
    ],
)
def test_what_befalls_one_worker_is_said(faults: list[str], says: str) -> None:
    def put_and_run(worker: Worker) -> None:
        worker.put("batch", [images(1)])
        worker.turn("batch", 0, 5)

    with fake(0.01, *faults, patience_s=3) as worker, pytest.raises(WorkerError, match=says):
        put_and_run(worker)


def test_a_batch_that_does_not_fit_leaves_the_worker_alive() -> None:
    with fake(0.01, "fits=2") as worker:
        worker.put("batch", [images(3)])
        with pytest.raises(OutOfMemory, match="CUDA out of memory"):
            worker.turn("batch", 0, 1)
        worker.put("batch", [images(2)])
        assert worker.turn("batch", 0, 2) == pytest.approx([0.01, 0.01])


def test_one_death_does_not_end_the_comparison_of_the_others() -> None:
    with fake(0.02) as a, fake(0.01) as b, fake(0.01, "die_after=30") as dies:
        timings = compete({"a": a, "b": b, "dies": dies})
        assert "SIGKILL" in (timings["dies"].failed or "")
        assert 0 < len(timings["dies"].turns) < 15
        assert timings["a"].failed is timings["b"].failed is None
        assert (latency.speedup(timings["a"], timings["b"]) or (0,))[0] == pytest.approx(2)


def test_a_worker_ends_with_its_parent() -> None:
    code = (
        f"import os, sys; sys.path.insert(0, {str(SCRIPT.parents[1])!r})\n"
        "from compress.runtimes.client import Worker\n"
        f"worker = Worker([sys.executable, {str(SCRIPT)!r}, '0'], 1); worker.ready()\n"
        "print(worker.process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    gone = Path(f"/proc/{int(parent.stdout)}/cmdline")
    for _ in range(200):
        if not gone.exists() or not gone.read_bytes():  # ended, or ended and not yet collected
            return
        time.sleep(0.05)
    pytest.fail("the worker lives on without its parent")
