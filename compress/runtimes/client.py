"""The parent's side of `server.py`: starts processes, asks them, and outlives them."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress import runtimes
from compress.checkpoints.named_code import make_variables
from compress.runtimes.base import Inspection
from compress.runtimes.server import read_frames, write_frame

ROOT = Path(__file__).resolve().parents[2]
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
PATIENCE_S = 900.0  # for one answer; compiling a large model is the longest


class WorkerError(RuntimeError):
    """A worker could not do what it was told, or is no more; one sentence says why."""


class OutOfMemory(WorkerError):
    """A batch, or the model, does not fit."""


def make_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Of a process that finds our modules: the variables of this one, and others in addition.

    What it prints is UTF-8, whatever the terminal: libraries draw bars, and fail where they cannot.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONIOENCODING": "utf-8",
        **make_variables(),
        **variables,
    }


def run_module(module: str, *args: object, environment: Mapping[str, str]) -> str:
    """Runs a module in a process of its own; the last line that it printed.

    Raises:
        RuntimeError: it did not end well; the last line of what it said.
    """
    command = [sys.executable, "-m", module, *map(str, args)]
    options: dict[str, Any] = {"encoding": "utf-8", "errors": "replace", "env": make_environment(environment)}
    done = subprocess.run(command, capture_output=True, check=False, **options)
    if done.returncode < 0:
        raise RuntimeError(f"its process was ended by signal {-done.returncode}")
    if done.returncode:
        raise RuntimeError("".join([line.strip() for line in done.stderr.splitlines() if line.strip()][-1:]))
    return done.stdout.splitlines()[-1] if done.stdout else ""


class Worker:
    """A process that runs one artifact. Use it as a context manager, or `close` it.

    The constructor returns at once, so that several can start side by side; `ready` waits.

    Args:
        command: of the process; see `start`.
        threads: of every thread pool the process may open.
        environment: variables added to those of this process.
    """

    def __init__(
        self, command: Sequence[str], threads: int, environment: Mapping[str, str] | None = None,
        patience_s: float = PATIENCE_S,
    ):  # fmt: skip
        self.patience_s, self._ready = patience_s, None
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  as long as the process
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=make_environment(dict.fromkeys(POOLS, str(threads)) | dict(environment or {})),
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._requests, self._answers = self.process.stdin, read_frames(self.process.stdout)

    @classmethod
    def start(
        cls,
        runtime: str,
        artifact: Path,
        device: str,
        threads: int,
        batch_size: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> "Worker":
        """A process that loads `artifact` with the runtime of that name; see `Runtime.load`."""
        args = [runtime, str(artifact), device, str(threads), *([] if batch_size is None else [str(batch_size)])]
        own = runtimes.describe(runtime).environment
        return cls([sys.executable, "-m", "compress.runtimes.server", *args], threads, {**own, **(environment or {})})

    def ready(self) -> dict[str, Any]:
        """Waits until the artifact is loaded: `load_s` (without importing the engine) and `device_name`.

        Raises:
            WorkerError: it cannot be loaded.
        """
        if self._ready is None:
            self._ready = self._answer()[0]
        return self._ready

    def put(self, name: str, batches: Sequence[np.ndarray]) -> None:
        """Hands over batches, each (B, C, height, width) float32, to be run under this name.

        Raises:
            OutOfMemory: they do not fit on the device.
        """
        self._ask({"do": "put", "name": name, "arrays": list(batches)})

    def turn(self, name: str, first: int, calls: int, uncounted: int = 1) -> list[float]:
        """Seconds of `calls` forward passes of the batches of that name, from number `first` on.

        Raises:
            OutOfMemory: a batch does not fit.
            WorkerError: the process failed, or died.
        """
        request = {"do": "turn", "name": name, "first": first, "calls": calls, "uncounted": uncounted}
        return self._ask(request)[0]["samples"]

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Predicted class (B,) of normalized images (B, C, height, width) float32."""
        return self._ask({"do": "predict", "arrays": [images]})[1][0]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Logits (B, classes) of normalized images (B, C, height, width) float32."""
        return self._ask({"do": "logits", "arrays": [images]})[1][0]

    def peak_memory_bytes(self) -> int | None:
        """Most memory so far: allocated on an accelerator, or resident in the whole process on a CPU."""
        return self._ask({"do": "peak"})[0]["peak_memory_bytes"]

    def inspect(self) -> Inspection:
        """What the engine does with the artifact. Loads it once more, so not before the peak of memory is asked for."""
        answer = self._ask({"do": "inspect"})[0]
        return Inspection(**{**answer, "notes": tuple(answer["notes"])})

    def close(self) -> None:
        """Ends the process. What it was doing is lost."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._said):
            with contextlib.suppress(BrokenPipeError):  # what was written last has no reader any more
                stream.close()  # type: ignore[union-attr]

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
        self.ready()
        try:
            write_frame(self._requests, request)
        except (BrokenPipeError, OSError) as error:
            raise WorkerError(self._obituary()) from error
        return self._answer()

    def _answer(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        with Deadline(self.patience_s, self.process) as deadline:
            frame = next(self._answers, None)
        if frame is None:
            raise WorkerError(f"gave no answer in {self.patience_s:.0f} s" if deadline.passed else self._obituary())
        if "error" in frame[0]:
            raise (OutOfMemory if frame[0]["out_of_memory"] else WorkerError)(frame[0]["error"])
        return frame

    def _obituary(self) -> str:
        """Why there is no answer any more."""
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:  # it closed its pipe, or wrote what is no answer, and lives on
            self.close()
            return "its process broke off"
        self._said.seek(0)
        last = [line.strip() for line in self._said.read().decode(errors="replace").splitlines() if line.strip()][-1:]
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if code == -signal.SIGKILL:
            how += " (as happens when the machine runs out of memory)"
        return ": ".join([f"its process {how}", *last])


class Deadline:
    """Kills a process that is not done in time, which ends the wait for its answer."""

    def __init__(self, seconds: float, process: subprocess.Popen[bytes]):
        self.passed, self.process = False, process
        self.timer = threading.Timer(seconds, self._expire)
        self.timer.daemon = True

    def _expire(self) -> None:
        self.passed = True
        self.process.kill()

    def __enter__(self) -> "Deadline":
        self.timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.timer.cancel()
