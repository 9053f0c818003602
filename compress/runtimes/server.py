"""One artifact in a process of its own, loaded once, that runs batches when it is told to and sleeps otherwise.

    python -m compress.runtimes.server RUNTIME ARTIFACT DEVICE THREADS [BATCH_SIZE]

With a batch size the engine compiles its graph for batches of exactly that size, where it can (`Runtime.load`).
So nothing that one engine does (threads that spin, memory it keeps, a crash) touches another one's figures. Frames on
both pipes are a line of JSON, then the bytes of the arrays whose types and shapes it lists. The process ends when its
input does, hence also when its parent is killed.
"""

import importlib
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from compress.checkpoints import named_code
from compress.runtimes.base import Inspection, Session

OUT_OF_MEMORY = ("out of memory", "not enough memory", "allocate memory", "bad_alloc")  # as engines say it


class Server:
    """Answers requests for one session.

    Args:
        inspect: says what the engine does with the artifact.
        clock: seconds; tests give their own.
    """

    def __init__(self, session: Session, inspect: Callable[[], Inspection], clock: Callable[[], float]):
        self.session, self.inspect_, self.clock = session, inspect, clock
        self.batches: dict[str, list[Any]] = {}

    def put(self, arrays: list[np.ndarray], name: str) -> dict[str, Any]:
        """Keeps batches under a name, each (B, C, height, width), on the device."""
        self.batches[name] = []  # what was there is let go before more is put beside it
        self.batches[name] = [self.session.put(images) for images in arrays]
        return {}

    def turn(self, _arrays: list[np.ndarray], name: str, first: int, calls: int, uncounted: int) -> dict[str, Any]:
        """Runs batches in order from number `first` on, and says how long each took.

        `uncounted` calls come before: they find the caches full of somebody else's weights.
        """
        batches, run, clock = self.batches[name], self.session.run, self.clock
        for number in range(first - uncounted, first):
            run(batches[number % len(batches)])
        samples = []
        for number in range(first, first + calls):
            batch = batches[number % len(batches)]
            before = clock()
            run(batch)
            samples.append(clock() - before)
        return {"samples": samples}

    def predict(self, arrays: list[np.ndarray]) -> dict[str, Any]:
        """Predicted class of each image."""
        (logits,) = self.logits(arrays)["arrays"]
        return {"arrays": [logits.argmax(1)]}

    def logits(self, arrays: list[np.ndarray]) -> dict[str, Any]:
        (images,) = arrays
        return {"arrays": [self.session.get(self.session.run(self.session.put(images)))]}

    def peak(self, _arrays: list[np.ndarray]) -> dict[str, Any]:
        return {"peak_memory_bytes": self.session.peak_memory_bytes()}

    def inspect(self, _arrays: list[np.ndarray]) -> dict[str, Any]:
        return asdict(self.inspect_())

    def answer(self, request: dict[str, Any], arrays: list[np.ndarray]) -> dict[str, Any]:
        try:
            return getattr(self, request.pop("do"))(arrays, **request)
        except (RuntimeError, MemoryError, ValueError) as error:
            return _failure(error)


def serve(
    engine: Callable[[], Callable[[], Session]],
    inspect: Callable[[], Inspection],
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Loads a session and answers on standard output what standard input asks, until that ends.

    Args:
        engine: imports what is needed, which is not timed, and gives what loads the artifact, which is.
        inspect, clock: see `Server`.

    Whatever else the process prints goes to standard error: an engine's chatter must not be taken for an answer.
    """
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who then closes the pipe
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        load = engine()
        started = clock()
        server = Server(load(), inspect, clock)
    except (RuntimeError, MemoryError, ValueError, OSError, ImportError) as error:
        write_frame(answers, _failure(error))
        return
    write_frame(answers, {"load_s": clock() - started, "device_name": server.session.device_name})
    for request, arrays in read_frames(requests):
        write_frame(answers, server.answer(request, arrays))


def end_with_parent() -> None:
    """Ends this process within a second when its parent is gone, also while an engine computes and nothing is read."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write_frame(stream: IO[bytes], content: dict[str, Any]) -> None:
    """A line of JSON; the arrays under `arrays` follow it."""
    arrays = [np.ascontiguousarray(array) for array in content.get("arrays", [])]
    shapes = [(array.dtype.str, array.shape) for array in arrays]
    stream.write(json.dumps({**content, "arrays": shapes}).encode() + b"\n")
    for array in arrays:
        stream.write(array.data)
    stream.flush()


def read_frames(stream: IO[bytes]) -> Iterator[tuple[dict[str, Any], list[np.ndarray]]]:
    """Frames until the other side closes; one that was cut off counts as closed."""
    while line := stream.readline():
        try:
            content = json.loads(line)
            arrays = [_read_array(stream, np.dtype(kind), shape) for kind, shape in content.pop("arrays")]
        except (ValueError, KeyError):
            return
        yield content, arrays


def _read_array(stream: IO[bytes], dtype: np.dtype[Any], shape: list[int]) -> np.ndarray:
    return np.frombuffer(bytearray(stream.read(math.prod(shape) * dtype.itemsize)), dtype).reshape(shape)


def out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in OUT_OF_MEMORY)


def _failure(error: BaseException) -> dict[str, Any]:
    text = str(error) or type(error).__name__
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return {"error": first, "out_of_memory": out_of_memory(error)}


def main(argv: list[str]) -> None:
    from compress import runtimes

    named_code.take_code()
    name, artifact, device, threads, *sizes = argv
    runtime, path = runtimes.get(name), Path(artifact)
    batch_size = int(sizes[0]) if sizes else None

    def import_engine() -> Callable[[], Session]:
        importlib.import_module(runtime.engine)
        return lambda: runtime.load(path, device, int(threads), batch_size)

    serve(import_engine, lambda: runtime.inspect(path, batch_size, device))


if __name__ == "__main__":
    main(sys.argv[1:])
