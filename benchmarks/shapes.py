"""Is a graph compiled for one batch size faster than one for any? The same file, loaded both ways, in turns.

    python benchmarks/shapes.py --geometry deit-s --batch-sizes 1,8 --threads 1

Random weights and images, as in `tokens.py`. A ratio above 1 says that the fixed graph is the faster one. It decides
what comes first in `batch_shapes` of a runtime.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tokens import GEOMETRIES

from baselines.vit import VisionTransformer
from compress import runtimes, variant
from compress.checkpoints.checkpoint import Checkpoint
from compress.measure import latency
from compress.methods import Method
from compress.runtimes import BuildInputs
from compress.runtimes.client import Worker

PRECISION = 0.01  # half the width of a ratio's interval at which measuring ends


def build(
    runtime: str, dense: VisionTransformer, methods: tuple[Method, ...], path: Path, images: torch.Tensor
) -> None:
    model, config = variant.prepare(dense, methods).eval(), dense.config
    for method in methods:
        method.calibrate(model, [images])
    described = tuple(variant.Variant(methods).describe())
    classes = tuple(map(str, range(config.classes)))
    content = Checkpoint(config, described, model.state_dict(), "noise", classes, (0.0,) * 3, (1.0,) * 3)
    runtimes.get(runtime).build(BuildInputs(model, variant.Variant(methods), content, images[:10]), path)


def compare(runtime: str, path: Path, images: torch.Tensor, batch_size: int, threads: int, seconds: float) -> str:
    """Milliseconds of both, and how many times as fast the fixed one is, with its 95 % interval."""
    batches = [batch.numpy() for batch in images.split(batch_size)]
    sizes = {"dynamic": None, "fixed": batch_size}
    workers = {shape: Worker.start(runtime, path, "cpu", threads, size) for shape, size in sizes.items()}
    try:
        for worker in workers.values():
            worker.put("images", batches)
        first, second = (worker.logits(batches[0]) for worker in workers.values())
        difference = np.abs(first - second).max() / np.abs(first).max()
        timings = latency.interleave(
            {shape: partial(worker.turn, "images") for shape, worker in workers.items()},
            budget_s=seconds,
            comparisons=[("dynamic", "fixed")],
            precision=PRECISION,
        )
    finally:
        for worker in workers.values():
            worker.close()
    middle, low, high = latency.speedup(timings["dynamic"], timings["fixed"]) or (0, 0, 0)
    times = ", ".join(f"{shape} {np.median(timing.samples) * 1e3:.1f} ms" for shape, timing in timings.items())
    return f"{times}; {middle:.3f} [{low:.3f}, {high:.3f}]; logits differ by {difference:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="deit-s")
    parser.add_argument("--variants", default="vit,int8,topk,topk_int8")
    parser.add_argument("--engines", default="openvino,onnxruntime")
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30, help="of measurement for each pair")
    options = parser.parse_args()
    torch.manual_seed(0)
    dense = VisionTransformer(GEOMETRIES[options.geometry]).eval()
    dense.head.bias.data[3] = 5.0  # classes lie far apart, so that rounding does not change them
    images = torch.randn(16, dense.config.channels, *dense.config.image_size)
    with tempfile.TemporaryDirectory() as folder:
        for runtime in options.engines.split(","):
            for name in options.variants.split(","):
                methods = variant.parse(name, {"int8": {"percentile": "100"}}).methods
                path = Path(folder) / f"{name}{runtimes.get(runtime).suffix}"
                if not path.exists():
                    build(runtime, dense, methods, path, images)
                for batch_size in map(int, options.batch_sizes.split(",")):
                    line = compare(runtime, path, images, batch_size, options.threads, options.seconds)
                    print(f"{runtime} {name}, batch {batch_size}: {line}", flush=True)


if __name__ == "__main__":
    main()
