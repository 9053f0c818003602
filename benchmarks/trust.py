"""Can the harness be trusted? The same model twice, known times, and work that is known to be a tenth more.

    python benchmarks/trust.py --runs 20

Every run starts new worker processes and times them as a bench does, while another process takes a whole core, on and
off at random. `same`: one artifact entered twice; the 95 % interval of the ratio should contain 1. `sleep`: workers
that sleep 20 and 22 ms. `work`: workers that repeat one matrix product 100 and 110 times. `runs`: one artifact,
measured in two runs of their own, as `compress report A B` compares them; at most 1 in 20 should be called faster
or slower, though the load that comes and goes differs from run to run. Two cores: about 30 minutes.
"""

import argparse
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from compress import runtimes
from compress.evaluate import Candidate, Options, evaluate, take_noise
from compress.measure import environment, latency
from compress.runtimes import BuildInputs
from compress.runtimes.client import Worker
from reports.runs import compare

SLEEP_S = 0.02
REPETITIONS = 100
TENTH = 1.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20, help="longest measurement of one run")
    parser.add_argument("--precision", type=float, default=0.03)
    parser.add_argument("--runtime", default="torch", help="of the model that is entered twice")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of `same` and `work`")
    parser.add_argument("--threads", type=int, default=environment.available_cpus())
    parser.add_argument("--only", choices=("same", "sleep", "work", "runs"))
    parser.add_argument("--quiet", action="store_true", help="no other process")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        kinds = {
            "same": partial(same, options, Path(folder)),
            "sleep": partial(known, "sleep", SLEEP_S, "cpu"),
            "work": partial(known, "work", REPETITIONS, options.device),
        }
        for kind, workers in kinds.items():
            if options.only in (None, kind):
                report(kind, [*runs(kind, workers, options)], options)
        if options.only in (None, "runs"):
            compare_runs(options, Path(folder))


def runs(kind: str, workers: object, options: argparse.Namespace) -> Iterator[tuple[float, float, float, int, float]]:
    """(ratio, low, high, rounds, median seconds of the first) of each run."""
    batch = np.random.default_rng(0).standard_normal((options.batch_size, 1, 8, 8), dtype=np.float32)
    for number in range(options.runs):
        pair: Sequence[Worker] = workers()  # type: ignore[operator]
        try:
            for worker in pair:
                worker.put("batch", [batch])
            with busy(number, not options.quiet):
                timings = latency.interleave(
                    {name: partial(w.turn, "batch") for name, w in zip("ab", pair, strict=True)},
                    budget_s=options.seconds,
                    comparisons=[("a", "b")],
                    precision=options.precision,
                    seed=number,
                )
        finally:
            for worker in pair:
                worker.close()
        ratio = latency.speedup(timings["a"], timings["b"])
        assert ratio is not None, timings
        middle = statistics.median(timings["a"].samples)
        print(
            f"{kind} run {number + 1}: {ratio[0]:.4f} [{ratio[1]:.4f}, {ratio[2]:.4f}], "
            f"{len(timings['a'].turns)} rounds, {middle * 1e3:.3f} ms",
            flush=True,
        )
        yield *ratio, len(timings["a"].turns), middle


def compare_runs(options: argparse.Namespace, folder: Path) -> None:
    """Measures one artifact in two runs, again and again, and counts how often they are said to differ."""
    artifact = folder / "vit.onnx"
    if not artifact.exists():
        build("onnxruntime", artifact)
    engine = runtimes.get("onnxruntime")
    candidate = Candidate(variant="vit", runtime=engine, build=lambda: artifact, key="vit", dense=True)
    images = take_noise(np.random.default_rng(0).standard_normal((64, 1, 8, 8), dtype=np.float32))
    asked = Options(
        verb="trust",
        batch_sizes=(options.batch_size,),
        threads=options.threads,
        seconds=options.seconds,
        precision=options.precision,
    )
    alarms, ratios = 0, []
    for number in range(options.runs):
        pair = {}
        for side in (0, 1):
            with busy(2 * number + side, not options.quiet):
                pair[f"run {side}"] = evaluate([candidate], images, asked, lambda _: None)
        (change,) = compare(pair).runs[0].changes
        alarms += change.time in ("slower", "faster")
        assert change.latency is not None
        ratios.append(change.latency[0])
        old, new = (rows[0] for rows in pair.values())
        print(
            f"runs {number + 1}: {change.latency}, {change.time}; "
            f"raw {(new.latency_s or 0) / (old.latency_s or 1):.3f}, standing {old.standing:.2f}, {new.standing:.2f}",
            flush=True,
        )
    table = Table(title=f"runs: {environment.cpu_name()}, {options.threads} threads", show_header=False)
    table.add_row("pairs of runs", str(options.runs))
    table.add_row("called faster or slower", str(alarms))
    table.add_row("median ratio", f"{statistics.median(ratios):.4f}")
    table.add_row("farthest ratio from 1", f"{max(abs(ratio - 1) for ratio in ratios):.2%}")
    Console().print(table)


def report(kind: str, found: list[tuple[float, float, float, int, float]], options: argparse.Namespace) -> None:
    true = 1.0 if kind == "same" else 1 / TENTH
    inside = sum(low <= true <= high for _, low, high, _, _ in found)
    slower = sum(high < 1 for _, _, high, _, _ in found)
    narrow = sum((high - low) / 2 <= options.precision * middle for middle, low, high, _, _ in found)
    table = Table(title=f"{kind}: {environment.cpu_name()}, {options.threads} threads", show_header=False)
    table.add_row("runs", str(len(found)))
    table.add_row(f"interval contains {true:.3f}", str(inside))
    table.add_row(f"half-width at most {options.precision:.0%}", str(narrow))
    table.add_row("median ratio", f"{statistics.median(entry[0] for entry in found):.4f}")
    table.add_row("farthest ratio from the truth", f"{max(abs(entry[0] / true - 1) for entry in found):.2%}")
    table.add_row("median rounds", str(statistics.median(entry[3] for entry in found)))
    if kind != "same":
        table.add_row("found slower", str(slower))
    if kind == "sleep":
        table.add_row("farthest time from 20 ms", f"{max(abs(entry[4] / SLEEP_S - 1) for entry in found):.2%}")
    Console().print(table)


def same(options: argparse.Namespace, folder: Path) -> list[Worker]:
    """Two workers that load one file."""
    runtime = options.runtime
    artifact = folder / f"vit{'.onnx' if runtime in ('onnxruntime', 'openvino') else '.pth'}"
    if not artifact.exists():
        build(runtime, artifact)
    return [Worker.start(runtime, artifact, options.device, options.threads) for _ in range(2)]


def build(runtime: str, artifact: Path) -> None:
    """The default model with random weights, which takes as long as a trained one."""
    import torch

    from baselines.vit import VisionTransformer
    from compress import config
    from compress.checkpoints.checkpoint import Checkpoint
    from compress.variant import Variant

    torch.manual_seed(0)
    model = VisionTransformer(config.read(None).model).eval()
    names = tuple(str(number) for number in range(10))
    content = Checkpoint(model.config, (), model.state_dict(), "digits", names, (0.5,), (0.5,))
    runtimes.get(runtime).build(BuildInputs(model, Variant(()), content, torch.randn(64, 1, 8, 8)), artifact)


def known(kind: str, amount: float, device: str) -> list[Worker]:
    """Two workers, the second with a tenth more to do."""
    start = [sys.executable, str(Path(__file__).with_name("known.py")), kind]
    return [Worker([*start, str(amount * factor), device], 1) for factor in (1, TENTH)]


@contextmanager
def busy(seed: int, wanted: bool) -> Iterator[None]:
    """Another process at full load, on and off for 0.2 to 2 seconds each."""
    if not wanted:
        yield
        return
    spinner, over = subprocess.Popen([sys.executable, "-c", "while True: pass"]), threading.Event()

    def toggle() -> None:
        chance, on = random.Random(seed), True
        while not over.wait(chance.uniform(0.2, 2)):
            on = not on
            spinner.send_signal(signal.SIGCONT if on else signal.SIGSTOP)

    thread = threading.Thread(target=toggle)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        spinner.kill()
        spinner.wait()


if __name__ == "__main__":
    main()
