"""All artifacts of one device, each in a process of its own: loaded, scored, and timed in turns."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType

import numpy as np
import torch

from compress.evaluate.rows import Candidate, ColdStart, Group, Measured, Request
from compress.measure import accuracy, latency
from compress.measure.latency import Contestant
from compress.measure.load import Watch
from compress.runtimes.workers import OutOfMemory, Worker, WorkerError
from compress.training.workshop import Workshop

TIMED_IMAGES = 256  # of the test set, that latency goes through
MIN_BATCHES, MAX_BATCHES = 8, 64
EASY_AND_HARD = 0.1  # of the test images, at either end of what they cost


class Contest:
    """A context manager: workers live inside it.

    Args:
        batch_sizes: that will be timed; compiled runtimes are scored with the largest of them.
        say: takes lines for the person at the terminal.
    """

    def __init__(
        self, request: Request, workshop: Workshop, device: str, batch_sizes: Sequence[int], say: Callable[[str], None]
    ):
        self.request, self.workshop, self.device, self.say = request, workshop, device, say
        self.batch_sizes = batch_sizes
        self.compiler_cache = tempfile.TemporaryDirectory()  # fresh, so that compiling shows in the cold start
        self.workers: dict[str, Worker] = {}
        self.scored: list[Measured] = []
        self.loaded = False

    def __enter__(self) -> "Contest":
        return self

    def __exit__(self, *_: TracebackType | type[BaseException] | BaseException | None) -> None:
        for worker in self.workers.values():
            worker.close()
        self.compiler_cache.cleanup()

    def load(self, candidates: Sequence[Candidate]) -> Iterator[tuple[Candidate, str]]:
        """Starts a worker for each, one by one, and scores all test images; yields those that failed, and why."""
        self.loaded = True
        for candidate in candidates:
            if candidate.runtime.fixed_shapes and not candidate.cost.fixed:
                yield candidate, f"{candidate.runtime.name} needs fixed shapes, and here the image decides on tokens"
                continue
            worker = self._start(candidate)
            try:
                start = self._cold_start(candidate, worker)
                predicted = self._score(candidate, worker)
                measured = Measured(candidate, start, worker.inspect(), predicted)
            except (RuntimeError, ValueError) as error:
                worker.close()
                yield candidate, str(error)
            else:
                self.workers[candidate.name] = worker
                self.scored.append(measured)

    def _cold_start(self, candidate: Candidate, worker: Worker) -> ColdStart:
        """What a process needs that is new, and the only one that works.

        Its batches grow, so that the peak of memory belongs to the last of them. Only its first call is cold, unless
        every shape is compiled.
        """
        facts, first, peaks = worker.ready(), {}, {}
        with contextlib.suppress(OutOfMemory):
            for batch_size in sorted(self.batch_sizes):
                worker.put("batches", self._test_batches(batch_size)[:1])
                (seconds,) = worker.turn("batches", 0, 1, uncounted=0)
                worker.turn("batches", 0, 3, uncounted=0)
                peaks[batch_size] = worker.peak_memory_bytes()
                if not first or candidate.runtime.fixed_shapes:
                    first[batch_size] = seconds
        return ColdStart(facts["device_name"], facts["load_s"], first, peaks)

    def _score(self, candidate: Candidate, worker: Worker) -> np.ndarray:
        """Predicted class of every test image, in batches that fit into memory."""
        size = max(self.batch_sizes) if candidate.runtime.fixed_shapes else accuracy.BATCH
        while True:
            try:
                return accuracy.predict(worker.predict, self.workshop.data, size)
            except OutOfMemory:
                if size == 1:
                    raise
                size //= 2

    def group(self, batch_size: int, key: str, first: bool) -> Group:
        """Times all of them at one batch size; at a smaller one if memory does not hold it."""
        asked = batch_size
        while True:
            try:
                self._put(batch_size)
                break
            except OutOfMemory as error:
                self.say(f"batch {batch_size} on {self.device} does not fit into memory: {error}")
                if batch_size == 1:
                    break
                batch_size //= 2
        notes = [] if batch_size == asked else [f"a batch of {asked} did not fit into memory; {batch_size} is measured"]
        watch = Watch([worker.process.pid for worker in self.workers.values()], self.device)
        timings = latency.interleave(
            dict(self._contestants(batch_size)),
            budget_s=self.request.seconds,
            comparisons=[*self._comparisons()],
            precision=self.request.precision,
        )
        notes += watch.warnings()
        measured = [
            replace(
                each,
                timing=timings[each.candidate.name],
                easy=timings.get(f"{each.candidate.name}, easy"),
                hard=timings.get(f"{each.candidate.name}, hard"),
            )
            for each in self.scored
        ]
        return Group(self.request, self.workshop, self.device, batch_size, key, measured, tuple(notes), first)

    def _start(self, candidate: Candidate) -> Worker:
        environment = {"TORCHINDUCTOR_CACHE_DIR": self.compiler_cache.name}
        runtime, artifact = candidate.runtime.name, candidate.artifact
        return Worker.of(runtime, artifact, self.device, self.request.threads, environment)

    def _put(self, batch_size: int) -> None:
        """Hands the batches to every worker and runs one; those that died meanwhile begin anew.

        Raises:
            OutOfMemory: one of them does not hold it.
        """
        batches = self._test_batches(batch_size)
        for each in self.scored:
            name = each.candidate.name
            try:
                if self.workers[name].process.poll() is not None:
                    self.workers[name].close()
                    self.workers[name] = self._start(each.candidate)
                self.workers[name].put("batches", batches)
                for kind, images in self._extremes(each, batch_size).items():
                    self.workers[name].put(kind, images)
                self.workers[name].turn("batches", 0, 1, uncounted=0)
            except OutOfMemory:
                raise
            except WorkerError as error:  # is found again when it is timed, and said in its row
                self.say(f"{name}: {error}")

    def _contestants(self, batch_size: int) -> Iterator[tuple[str, Contestant]]:
        for each in self.scored:
            name = each.candidate.name
            yield name, partial(self.workers[name].turn, "batches")
            for kind in self._extremes(each, batch_size):
                yield f"{name}, {kind}", partial(self.workers[name].turn, kind)

    def _comparisons(self) -> Iterator[tuple[str, str]]:
        """Each artifact with the dense model in its runtime; with that in torch where this is it, or there is none."""
        dense = {each.candidate.runtime.name: each.candidate.name for each in self.scored if not _methods(each)}
        for each in self.scored:
            reference = dense.get(each.candidate.runtime.name if _methods(each) else "torch", dense.get("torch"))
            if reference is not None and reference != each.candidate.name:
                yield reference, each.candidate.name

    def _extremes(self, each: Measured, batch_size: int) -> dict[str, list[np.ndarray]]:
        """Single images that cost little and much, where the image decides."""
        spent = each.candidate.cost
        if batch_size != 1 or spent.fixed:
            return {}
        order = spent.per_image.argsort()
        count = max(round(len(order) * EASY_AND_HARD), 1)
        chosen = {"easy": order[:count], "hard": order[-count:]}
        return {kind: self._batches(indices[:MAX_BATCHES], 1) for kind, indices in chosen.items()}

    def _test_batches(self, batch_size: int) -> list[np.ndarray]:
        """Batches of test images, spread over the test set; images come again where it is smaller than a batch."""
        n = len(self.workshop.data.test.labels)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).repeat(-(-batch_size // n))
        wanted = min(max(TIMED_IMAGES // batch_size, MIN_BATCHES), MAX_BATCHES)
        return self._batches(order[: max(len(order) // batch_size, 1) * batch_size][: batch_size * wanted], batch_size)

    def _batches(self, indices: torch.Tensor, batch_size: int) -> list[np.ndarray]:
        data = self.workshop.data
        found = data.batches(data.test, batch_size, torch.device("cpu"), indices=indices)
        return [images.numpy() for images, _ in found]


def _methods(each: Measured) -> bool:
    return bool(each.candidate.built.variant.methods)
