"""Steps of a long job, each done once: what one of them does to its process harms no other, and all is written down.

Steps run in a process of their own, one after another. It is ended where a step takes too long, and begun anew after
it died or its device broke. DIR/steps.jsonl has a line for every step that was tried; one that passed is not run again.
"""

import contextlib
import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from compress.runtimes.server import end_with_parent

PASS, FAIL, LEFT_OUT = "pass", "fail", "left out"
BROKEN_DEVICE = ("CUDA error", "device-side assert", "cuDNN error", "CUBLAS_STATUS", "cuBLAS error")  # torch's words
WORST = 600.0  # seconds of a step, where nothing says otherwise
Work = Callable[[float], Mapping[str, Any] | None]
"""Seconds that it may take -> facts for its line; raises `LeftOut` or anything else."""


class LeftOut(Exception):
    """A step has nothing to do here; one sentence says why."""


@dataclass(frozen=True)
class Step:
    """One of the steps.

    Args:
        limit_s: after which its process is ended.
        least_s: with less time left it is not begun.
        needs: packages, without which it is left out.
        reserved: whether steps before it leave it `least_s`.
    """

    name: str
    limit_s: float = WORST
    least_s: float = 1.0
    needs: tuple[str, ...] = ()
    reserved: bool = False


@dataclass(frozen=True)
class Record:
    """What came of a step: a line of the journal."""

    step: str
    status: str
    seconds: float = 0.0
    error: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    time_utc: str = ""


class Journal:
    """The lines of DIR/steps.jsonl."""

    def __init__(self, folder: Path):
        self.path = folder / "steps.jsonl"

    def read(self) -> dict[str, Record]:
        """The newest record of each step by name; a line that was cut off counts for nothing."""
        found: dict[str, Record] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            try:
                record = Record(**json.loads(line))
            except (ValueError, TypeError):
                continue
            found[record.step] = record
        return found

    def write(self, record: Record) -> None:
        content = {**asdict(record), "time_utc": datetime.now(UTC).isoformat(timespec="seconds")}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")


class Worker:
    """The process that does the work of steps, as `serve` has it.

    Args:
        log: takes all that it prints.
    """

    def __init__(self, command: Sequence[str], log: IO[bytes]):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )

    def ask(self, name: str, seconds: float) -> dict[str, Any]:
        """The answer to a request; what became of the process where there is none in time."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"step": name, "seconds": seconds}).encode() + b"\n")
            self.process.stdin.flush()
            if not select.select([self.process.stdout], [], [], seconds)[0]:
                return {"status": FAIL, "error": f"not done after {seconds:.0f} s", "last": True}
            return json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            return {"status": FAIL, "error": self._describe_end(), "last": True}

    def _describe_end(self) -> str:
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "its process gave no answer"
        return (
            f"its process was ended by {signal.Signals(-code).name}" if code < 0 else f"its process ended with {code}"
        )

    def close(self) -> None:
        """Ends the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):  # what was written last has no reader any more
                stream.close()  # type: ignore[union-attr]


def run(
    steps: Sequence[Step],
    command: Sequence[str],
    folder: Path,
    seconds: float,
    missing: Mapping[str, str],
    tell: Callable[[Record], object],
) -> None:
    """Does in order what is not done yet.

    Args:
        command: of the process, which calls `serve`.
        folder: takes the journal and a log.
        seconds: for all of them together.
        missing: why packages cannot be used, by name.
        tell: is told each record when it is written.
    """
    journal, end, worker = Journal(folder), time.monotonic() + seconds, None
    done = {name for name, record in journal.read().items() if record.status == PASS}
    waiting = [step for step in steps if step.name not in done]
    with (folder / "log.txt").open("ab") as log:
        try:
            for number, step in enumerate(waiting):
                kept = sum(later.least_s for later in waiting[number + 1 :] if later.reserved)
                left = end - time.monotonic() - kept
                lacking = next((missing[name] for name in step.needs if name in missing), None)
                if lacking or left < step.least_s:
                    why = lacking or f"{left:.0f} s were left, and it needs {step.least_s:.0f}"
                    record = Record(step.name, LEFT_OUT, error=why)
                else:
                    worker = worker or Worker(command, log)
                    begun = time.monotonic()
                    answer = worker.ask(step.name, min(step.limit_s, left))
                    if answer.pop("last", False):
                        worker.close()
                        worker = None
                    record = Record(step.name, seconds=round(time.monotonic() - begun, 2), **answer)
                journal.write(record)
                tell(record)
        finally:
            if worker is not None:
                worker.close()


def serve(table: Mapping[str, Work]) -> None:
    """Does on standard input's word what `table` holds; all that is printed goes to standard error."""
    end_with_parent()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        request = json.loads(line)
        answer = _attempt(request["step"], table[request["step"]], request["seconds"])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if answer.get("last"):
            return
        _release_memory()


def _attempt(name: str, work: Work, seconds: float) -> dict[str, Any]:
    print(f"== {name}", file=sys.stderr, flush=True)
    try:
        return {"status": PASS, "facts": dict(work(seconds) or {})}
    except LeftOut as reason:
        return {"status": LEFT_OUT, "error": str(reason)}
    except Exception as error:
        traceback.print_exc()
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        text = f"{type(error).__name__}: {said}" if said else type(error).__name__
        answer: dict[str, Any] = {"status": FAIL, "error": text}
        return {**answer, "last": True} if any(words in str(error) for words in BROKEN_DEVICE) else answer


def _release_memory() -> None:
    """What a step had on the device is there for processes that the next one starts."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
