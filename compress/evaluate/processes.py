"""All artifacts of one device, each in a process of its own: started, scored, and timed in turns."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from baselines.progress import progress_bar
from compress import files
from compress.evaluate.candidate import Candidate
from compress.evaluate.images import MAX_BATCHES, Images
from compress.evaluate.measurement import ColdStart, Measurement, has_fixed_batch, run_batches
from compress.evaluate.options import Options
from compress.evaluate.scores import Scores
from compress.measure import latency
from compress.measure.latency import Leave, Timer, Timing
from compress.runtimes.client import OutOfMemory, Worker, WorkerError
from compress.runtimes.standing import start_standing

EASY_AND_HARD = 0.1  # of the test images, at either end of what they cost
STANDING = "standing reference"


class Processes:
    """A context manager: worker processes live inside it."""

    def __init__(self, images: Images, options: Options, device: str, say: Callable[[str], object]):
        self.images, self.options, self.device, self.say = images, options, device, say
        self.workers: dict[str, Worker] = {}
        self.shapes: dict[str, int | None] = {}  # batch size that a worker's graph is compiled for
        self.stack = contextlib.ExitStack()
        self.scores = Scores(options.kept, (images.fingerprint, device, options.threads) if options.kept else ())

    def __enter__(self) -> "Processes":
        self.compiler_cache = str(self.stack.enter_context(files.temporary_folder()))  # fresh: compiling is seen
        self.standing = self.stack.enter_context(start_standing(self.device, self.options.threads))
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.close()
        self.stack.close()

    @property
    def process_ids(self) -> list[int]:
        return [worker.process.pid for worker in (self.standing, *self.workers.values())]

    def add(self, candidate: Candidate, path: Path, batch_sizes: Sequence[int]) -> Measurement:
        """Starts a process for an artifact, as the only one that works, and notes what its first calls need.

        Raises:
            WorkerError: it cannot be loaded or run.
        """
        if candidate.runtime.static_shapes and candidate.cost is not None and not candidate.cost().fixed:
            raise WorkerError(f"{candidate.runtime.name} needs fixed shapes, and here the image decides on tokens")
        try:
            starts = self._restart(candidate, path, batch_sizes)
            return Measurement(candidate, path, self.workers[candidate.name].inspect(), starts)
        except WorkerError:
            self.stop(candidate)
            raise

    def stop(self, candidate: Candidate) -> None:
        """Ends the process of a candidate that takes no further part."""
        if (worker := self.workers.pop(candidate.name, None)) is not None:
            worker.close()

    def _restart(self, candidate: Candidate, path: Path, batch_sizes: Sequence[int]) -> dict[int, ColdStart]:
        """A new process; of a graph that is compiled for one batch size the first of `batch_sizes` counts."""
        name, shape = candidate.name, batch_sizes[0] if has_fixed_batch(candidate) else None
        if name in self.workers:
            self.workers[name].close()
        if candidate.start is not None:
            worker = candidate.start(path, self.device, self.options.threads)
        else:
            environment = {"TORCHINDUCTOR_CACHE_DIR": self.compiler_cache}
            options = self.device, self.options.threads, shape, environment
            worker = Worker.start(candidate.runtime.name, path, *options)
        self.workers[name], self.shapes[name] = worker, shape
        return self._call_first(candidate, worker, batch_sizes[:1] if shape else sorted(batch_sizes))

    def _call_first(self, candidate: Candidate, worker: Worker, batch_sizes: Sequence[int]) -> dict[int, ColdStart]:
        """Batches grow, so that the peak of memory belongs to the last of them. Only the first call is cold, unless
        every shape is compiled."""
        facts, found = worker.ready(), {}
        with contextlib.suppress(OutOfMemory):
            for batch_size in batch_sizes:
                worker.put("batches", self.images.timed(batch_size)[:1])
                (seconds,) = worker.turn("batches", 0, 1, uncounted=0)
                worker.turn("batches", 0, 3, uncounted=0)
                cold = not found or candidate.runtime.static_shapes
                peak = worker.peak_memory_bytes()
                found[batch_size] = ColdStart(facts["device_name"], facts["load_s"], seconds if cold else None, peak)
        return found

    def score(self, measurements: Sequence[Measurement], count: int) -> None:
        """Runs the first `count` images through all that have not seen them; each is decoded once for all of them."""
        waiting = [each for each in measurements if each.failed is None and len(each.predicted_k) < count]
        if not waiting:
            return
        size, first = self.images.batch_size, min(len(each.predicted_k) for each in waiting)
        wanted = range(first, count)
        title = f"scoring {waiting[0].candidate.name if len(waiting) == 1 else f'{len(waiting)} artifacts'}"
        try:
            with progress_bar(title, len(wanted), 0) as advance:
                done = first
                for batch in self.images.batches(size, wanted):
                    for each in waiting:
                        seen = len(each.predicted_k)
                        if each.failed is None and seen < done + len(batch):
                            self._score_batch(each, batch[seen - done :])
                    done += len(batch)
                    advance(f"{done:,} images", len(batch))
        finally:  # also where it was interrupted
            for each in waiting:
                self.scores.save(each)

    def _score_batch(self, each: Measurement, batch: np.ndarray) -> None:
        size = self.shapes[each.candidate.name] or len(batch)
        if each.candidate.runtime.compiles_long:
            size = max(self.options.batch_sizes)
        try:
            logits = run_batches(self.workers[each.candidate.name], batch, size)
        except WorkerError as error:
            each.failed = str(error)
            return
        if not np.isfinite(logits).all():
            bad = int((~np.isfinite(logits).all(1)).sum())
            each.failed = f"its logits are not finite for {bad} of {len(batch)} images, so it has no accuracy"
            return
        if len(logits) > 1 and not np.ptp(logits, axis=1).any():
            each.failed = "its logits are all equal in every image, so it tells no classes apart"
            return
        if each.logits_sC is None:
            each.logits_sC = logits
        each.predicted_k = np.concatenate([each.predicted_k, logits.argmax(1)])

    def put(self, measurements: Sequence[Measurement], batch_size: int) -> tuple[int, str | None]:
        """Hands the timed batches to every worker and runs one; those that died meanwhile begin anew.

        Returns:
            The batch size, halved until memory holds it, and a note where it was.
        """
        asked = batch_size
        while True:
            try:
                self._put(measurements, batch_size)
                break
            except OutOfMemory as error:
                self.say(f"batch {batch_size} on {self.device} does not fit into memory: {error}")
                if batch_size == 1:
                    break
                batch_size //= 2
        note = f"a batch of {asked} did not fit into memory; {batch_size} is measured"
        return batch_size, None if batch_size == asked else note

    def _put(self, measurements: Sequence[Measurement], batch_size: int) -> None:
        batches = self.images.timed(batch_size)
        for each in measurements:
            name = each.candidate.name
            try:
                dead = name not in self.workers or self.workers[name].process.poll() is not None
                if dead or self.shapes[name] not in (None, batch_size):
                    each.starts |= self._restart(each.candidate, each.path, [batch_size])
                self.workers[name].put("batches", batches)
                for kind, chosen in self._extremes(each, batch_size).items():
                    self.workers[name].put(kind, chosen)
                self.workers[name].turn("batches", 0, 1, uncounted=0)
            except OutOfMemory:
                raise
            except WorkerError as error:  # is found again when it is timed, and said in its row
                self.say(f"{name}: {error}")

    def time(
        self,
        measurements: Sequence[Measurement],
        batch_size: int,
        comparisons: Sequence[tuple[str, str]],
        *,
        seconds: float,
        timings: Mapping[str, Timing] | None = None,
        leave: Leave | None = None,
    ) -> dict[str, Timing]:
        """Times artifacts in turns, with the standing reference among them; `timings` go on."""
        contestants: dict[str, Timer] = {STANDING: partial(self.standing.turn, "batches")}
        for each in measurements:
            name = each.candidate.name
            contestants[name] = partial(self.workers[name].turn, "batches")
            for kind in self._extremes(each, batch_size):
                contestants[f"{name}, {kind}"] = partial(self.workers[name].turn, kind)
        return latency.interleave(
            contestants,
            budget_s=seconds,
            comparisons=comparisons,
            precision=self.options.precision,
            timings=timings,
            leave=leave,
        )

    def _extremes(self, each: Measurement, batch_size: int) -> dict[str, list[np.ndarray]]:
        """Single images that cost little and much, where the image decides."""
        spent = each.candidate.cost
        if batch_size != 1 or spent is None or spent().fixed:
            return {}
        order = spent().per_image.argsort()
        count = max(round(len(order) * EASY_AND_HARD), 1)
        chosen = {"easy": order[:count], "hard": order[-count:]}
        return {kind: [*self.images.batches(1, which[:MAX_BATCHES])] for kind, which in chosen.items()}
