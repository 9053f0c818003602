"""How much of the work that leaves with the tokens becomes time? Token methods against the dense model, in turns.

    python benchmarks/tokens.py --geometry deit-s --batch-sizes 1 --threads 1
    python benchmarks/tokens.py --geometry deit-s --batch-sizes 8 --threads 2 --engines torch,openvino_bf16
    python benchmarks/tokens.py --geometry deit-s --methods avit --batch-sizes 1,32 --engines torch

Random weights and images. Which tokens leave is then random, but how many is not, and time depends only on that; avit's
gate is calibrated to its budget on these images. An engine is a runtime, and the numbers behind an underscore. Every
artifact runs in a process of its own, as in a bench, and is compared with the dense model in the same engine and
numbers.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

from material import GEOMETRIES, make_noise
from rich.console import Console

import reports
from compress import variant
from compress.evaluate import Options, evaluate
from compress.measure import environment

ENGINES = "torch,torch_bf16,onnxruntime,onnxruntime_int8,openvino,openvino_bf16,openvino_int8"
IMAGES = 32
PRECISION = 0.015  # half the width of a speed-up's interval at which measuring ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="deit-s")
    parser.add_argument("--methods", default="topk,dynamicvit,tome,avit")
    parser.add_argument("--set", action="append", default=[], metavar="METHOD.NAME=VALUE", help="such as topk.keep=0.5")
    parser.add_argument("--engines", default=ENGINES, help="runtime, or runtime_dtype, by commas")
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--threads", type=int, default=environment.available_cpus())
    parser.add_argument("--seconds", type=float, default=60, help="of measurement for each engine and batch size")
    parser.add_argument("--folder", type=Path, help="where artifacts are kept and found again")
    parser.add_argument("--out", type=Path, help="run directory for the rows, which compress report renders")
    options = parser.parse_args()

    settings: dict[str, dict[str, str]] = {
        "avit": {"gate_scale": "4.0"},
        "tome": {"r": "13"},
        "int8": {"percentile": "100"},
    }
    for assignment in options.set:
        name, value = assignment.split("=")
        settings.setdefault(name.split(".")[0], {})[name.split(".")[1]] = value
    console = Console(width=None if Console().is_terminal else 160)
    with tempfile.TemporaryDirectory() as passing:
        material = make_noise(GEOMETRIES[options.geometry], IMAGES, options.folder or Path(passing))
        for engine in options.engines.split(","):
            runtime, _, dtype = engine.partition("_")
            dense = f"{variant.BASELINE}_{dtype}" if dtype else variant.BASELINE
            parts = [variant.parse(f"{name}_{dtype}" if dtype else name, settings).methods
                     for name in (variant.BASELINE, *options.methods.split(","))]  # fmt: skip
            candidates = [material.make_candidate(runtime, methods) for methods in parts]
            candidates[0] = dataclasses.replace(candidates[0], dense=True)
            asked = Options(
                verb="tokens",
                base=candidates[0].variant,
                batch_sizes=tuple(int(part) for part in options.batch_sizes.split(",")),
                threads=options.threads,
                seconds=options.seconds,
                precision=PRECISION,
                out=options.out,
            )
            console.print(f"{engine}, against {dense}")
            console.print(reports.rich_table(evaluate(candidates, material.images, asked, console.print)))


if __name__ == "__main__":
    main()
