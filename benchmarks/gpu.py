"""All that a CUDA GPU has to show, within minutes, the most valuable first; what is done is not done again.

    python benchmarks/archive.py cifar10 cifar10.npz                     # once, anywhere: images that are carried
    python benchmarks/gpu.py --out gpu --minutes 9 --images cifar10.npz
    python benchmarks/gpu.py --out gpu --minutes 5 --images cifar10.npz  # goes on: what passed is not run again
    python benchmarks/gpu.py --out small --miniature                     # the same on a CPU, with tiny models

In order: what the machine is; every method on CUDA against the CPU's answers, inference and training; DeiT-S and ViT-B
at several batch sizes in fp32, tf32, bf16, int8 and fp8, eager and as CUDA graphs, with every token method; whether the
timing can be trusted; training against timm; torch.compile; CIFAR-10 for the rest of the time.

OUT/steps.jsonl     a line for each step that was tried: pass, fail or left out, seconds, error, figures
OUT/rows/*/         rows.jsonl of the ordinary harness and their report.md
OUT/report.md       written anew after each step
OUT/log.txt         all that was printed

A step that fails, hangs or crashes costs itself only. The package needs no installation: it is run from its checkout.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # it runs from its checkout
if TYPE_CHECKING:
    from gpu_steps import Setup
    from steps import Record

NEEDED = ("torch", "numpy", "pydantic", "psutil", "PIL", "rich")  # modules
USED = {
    "torchvision": "training",
    "timm": "the comparison with timm's training",
    "typer": "training",
    "onnx": "ONNX Runtime",
    "onnxscript": "ONNX Runtime",
    "onnxruntime": "ONNX Runtime",
}
RESERVE_S = 10.0  # for the last report
PROVIDERS = {"onnxruntime": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


def main() -> int:
    options = arguments()
    if lacking := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        print(f"nothing can be run without {', '.join(lacking)}; install what is missing", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    device = "cpu" if options.miniature else options.device
    with tempfile.TemporaryDirectory() as folder:
        artifacts = options.artifacts or Path(folder)
        from gpu_steps import Setup

        setup = Setup(options.out, artifacts, device, options.threads, options.images, options.miniature)
        if options.serve:
            work(setup)
            return 0
        return start(setup, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is written")
    parser.add_argument("--minutes", type=float, default=9, help="after which it ends, whatever is left")
    parser.add_argument("--images", type=Path, help="archive of benchmarks/archive.py to train on")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", default="", help="steps whose names begin with this")
    parser.add_argument("--miniature", action="store_true", help="tiny models on a CPU, in seconds")
    parser.add_argument("--artifacts", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)  # this file as the process of the steps
    return parser.parse_args()


def start(setup: "Setup", options: argparse.Namespace) -> int:
    """Has the steps done; 1 where one of them failed."""
    import gpu_report
    import steps
    from gpu_steps import list_steps

    missing = find_missing(setup)
    for name, why in missing.items():
        print(f"{name}: {why}")
    again = [sys.executable, __file__, "--serve", "--artifacts", str(setup.artifacts), "--out", str(setup.out)]
    again += ["--threads", str(setup.threads), "--device", setup.device]
    again += ["--images", str(setup.images)] if setup.images else []
    again += ["--miniature"] if setup.miniature else []
    failed = []

    def tell(record: "Record") -> None:
        print(f"{record.status:9} {record.step} ({record.seconds:.1f} s) {record.error or ''}", flush=True)
        failed.append(record.status == steps.FAIL)
        gpu_report.write(setup.out)

    wanted = [step for step in list_steps(setup) if step.name.startswith(options.only)]
    steps.run(wanted, again, setup.out, options.minutes * 60 - RESERVE_S, missing, tell)
    gpu_report.write(setup.out)
    print(f"report: {setup.out / 'report.md'}")
    return int(any(failed))


def find_missing(setup: "Setup") -> dict[str, str]:
    """Why packages, and providers of ONNX Runtime by the name of their runtime, cannot be used."""
    missing = {
        name: f"not installed; left out: {use}" for name, use in USED.items() if not importlib.util.find_spec(name)
    }
    if setup.device == "cuda" and "onnxruntime" not in missing:
        import onnxruntime

        here = onnxruntime.get_available_providers()
        missing |= {
            name: f"this ONNX Runtime has no {provider}" for name, provider in PROVIDERS.items() if provider not in here
        }
    return missing


def work(setup: "Setup") -> None:
    """Does steps as another process asks for them."""
    from compress.measure import environment

    environment.limit_spinning()  # before torch is loaded
    import steps
    import torch
    from gpu_steps import list_steps

    environment.configure_allocator()
    torch.set_num_threads(setup.threads)
    steps.serve({step.name: each for step, each in list_steps(setup).items()})


if __name__ == "__main__":
    sys.exit(main())
