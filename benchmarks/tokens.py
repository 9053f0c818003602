"""How much of the work that leaves with the tokens becomes time? Token methods against the dense model, in turns.

    python benchmarks/tokens.py --geometry deit-s --batch-sizes 1 --threads 1
    python benchmarks/tokens.py --geometry deit-s --batch-sizes 8 --threads 2 --engines torch,openvino_bf16
    python benchmarks/tokens.py --geometry deit-s --methods avit --batch-sizes 1,32 --engines torch

Random weights and images. Which tokens leave is then random, but how many is not, and time depends only on that; avit's
gate is calibrated to its budget on these images. An engine is a runtime, and the numbers behind an underscore. Every
artifact runs in a process of its own, as in a bench, and is compared with the dense model in the same engine and
numbers.
`ceiling` is what the executed multiply-accumulates allow, `realised` the share of it that became time. `p50` and `p99`
are over calls, and so over images where work depends on them.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from baselines.vit import VisionTransformer, ViTConfig
from compress import runtimes, variant
from compress.checkpoints.checkpoint import Checkpoint
from compress.measure import environment, latency
from compress.measure.cost import Cost, of_images
from compress.methods import Method
from compress.runtimes.workers import Worker

GEOMETRIES = {
    "cifar": ViTConfig(dim=384, depth=6, heads=6, mlp_dim=1536),
    "small": ViTConfig(dim=128, depth=6, heads=4, mlp_dim=384),
    "deit-s": ViTConfig(image_size=224, patch_size=16, dim=384, depth=12, heads=6, mlp_dim=1536, classes=1000),
}
ENGINES = "torch,torch_bf16,onnxruntime,onnxruntime_int8,openvino,openvino_bf16,openvino_int8"
IMAGES = 32
PRECISION = 0.015  # half the width of a speed-up's interval at which measuring ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="deit-s")
    parser.add_argument("--methods", default="topk,dynamicvit,tome,avit")
    parser.add_argument("--set", action="append", default=[], metavar="METHOD.NAME=VALUE", help="such as topk.keep=0.5")
    parser.add_argument("--engines", default=ENGINES, help="runtime, or runtime_numbers, by commas")
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--threads", type=int, default=environment.available_cpus())
    parser.add_argument("--seconds", type=float, default=60, help="of measurement for each engine and batch size")
    parser.add_argument(
        "--folder", type=Path, help="where artifacts are kept and found again, as long as nothing changes"
    )
    options = parser.parse_args()

    settings: dict[str, dict[str, str]] = {
        "avit": {"gate_scale": "4.0"},
        "tome": {"r": "13"},
        "int8": {"percentile": "100"},
    }
    for assignment in options.set:
        name, value = assignment.split("=")
        settings.setdefault(name.split(".")[0], {})[name.split(".")[1]] = value
    torch.manual_seed(0)
    dense = VisionTransformer(GEOMETRIES[options.geometry]).eval()
    dense.head.bias.data[3] = 5.0  # classes lie far apart, so that rounding does not change them
    names = [variant.BASELINE, *options.methods.split(",")]
    title = f"{options.geometry}, threads {options.threads}, {environment.cpu_name()}, torch {torch.__version__}"
    table = Table(title=title)
    for heading in ("engine", "batch", "model", "p50 ms", "p99 ms", "speed-up [95 %]", "ceiling", "realised"):
        table.add_column(heading, justify="left" if heading in ("engine", "model") else "right")
    with tempfile.TemporaryDirectory() as passing:
        folder = options.folder or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        for engine in options.engines.split(","):
            runtime, _, numbers = engine.partition("_")
            parts = {name: variant.parse(f"{name}_{numbers}" if numbers else name, settings).methods for name in names}
            with ExitStack() as stack:
                race = Race(dense, runtime, parts, folder, options.threads, stack)
                for batch_size in (int(part) for part in options.batch_sizes.split(",")):
                    for row in race.rows(batch_size, options.seconds):
                        table.add_row(engine, str(batch_size), *row)
            table.add_section()
    Console(width=120).print(table)


class Race:
    """The dense model and its variants in one engine, each loaded in a process of its own.

    Args:
        parts: methods of each variant, by name; the dense model is the first.
        folder: for artifacts; those of another engine are used again.
        stack: ends the processes.
    """

    def __init__(
        self,
        dense: VisionTransformer,
        runtime: str,
        parts: dict[str, tuple[Method, ...]],
        folder: Path,
        threads: int,
        stack: ExitStack,
    ):
        config = dense.config
        self.images = torch.randn(IMAGES, config.channels, *config.image_size)
        self.padded = runtimes.get(runtime).padded
        self.costs: dict[str, Cost] = {}
        self.workers: dict[str, Worker] = {}
        for name, methods in parts.items():
            model = variant.prepare(dense, methods)
            for method in methods:
                method.calibrate(model, [self.images])
            self.costs[name] = of_images(model.eval(), [self.images])
            described = tuple({"name": method.name, **method.model_dump()} for method in methods)
            classes = tuple(str(index) for index in range(config.classes))
            content = Checkpoint(config, described, model.state_dict(), "noise", classes, (0.0,) * 3, (1.0,) * 3)
            whole = variant.Variant(methods)
            path = folder / f"{whole.name}{runtimes.get(runtime).suffix}"
            if not path.exists():
                runtimes.get(runtime).build(model, whole, content, path, self.images[:10])
            self.workers[name] = stack.enter_context(Worker.of(runtime, path, "cpu", threads))
            self.workers[name].ready()

    def rows(self, batch_size: int, seconds: float) -> Iterator[list[str]]:
        """One table row for each model."""
        batches = [batch.numpy() for batch in self.images.split(batch_size)]
        for worker in self.workers.values():
            worker.put(str(batch_size), batches)
        first, *others = self.workers
        timings = latency.interleave(
            {name: partial(worker.turn, str(batch_size)) for name, worker in self.workers.items()},
            budget_s=seconds,
            comparisons=[(first, other) for other in others],
            precision=PRECISION,
        )
        for name, timing in timings.items():
            if timing.failed:
                yield [name, timing.failed]
                continue
            ceiling = self.costs[name].dense / self.costs[name].executed(batch_size, padded=self.padded)
            ratio, low, high = latency.speedup(timings[first], timing) or (1.0, 1.0, 1.0)
            shown = [
                f"{ratio:.3f} [{low:.3f}, {high:.3f}]",
                f"{ceiling:.3f}",
                f"{(ratio - 1) / max(ceiling - 1, 1e-9):.2f}",
            ]
            times = (f"{each * 1e3:.2f}" for each in np.quantile(timing.samples, [0.5, 0.99]))
            yield [name, *times, *(shown if name != first else [])]


if __name__ == "__main__":
    main()
