"""int8 as this package makes and lowers it against what others offer: the same float weights, all rows in turns.

    python benchmarks/int8.py --geometry deit-s --batch-sizes 1,8 --threads 1 --folder artifacts
    python benchmarks/int8.py --geometry cifar --batch-sizes 1,32 --rows nncf,nncf_bf16,ours_openvino_bf16
    python benchmarks/int8.py --checkpoint best_vit_model.pth --data cifar10 --test-images 2000 --batch-sizes 1

Peers (how they are told what to do stands in `int8_peers.py`): PyTorch, ONNX Runtime and OpenVINO in float, ONNX
Runtime's own quantizers, NNCF and torchao. Rows that begin with `ours_` are ours; those with topk also drop tokens,
without any fine-tuning. Every quantizer sees the same 64 images, every row runs in a process of its own, and engines
are told the same threads and waiting in all rows; what torch compiles is compiled before anything is timed. A row that
cannot run is a line that says why.

Without a checkpoint weights and images are random: times are real, SQNR compares quantizers on the same numbers, and
agreement shows gross faults only. With one, images are those of its data.
Artifacts in --folder are found again as long as weights, images and settings stay; remove it after a change of code.
"""

import argparse
import copy
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import int8_peers
import numpy as np
import torch
from material import GEOMETRIES, Material, make_noise

import reports
from baselines.errors import InputError
from compress import loading, runtimes
from compress.cli import terminal
from compress.evaluate import Candidate, Options, evaluate, take_test_images
from compress.measure import environment
from compress.methods import Bf16, Int8, Method, TopK
from compress.runtimes.client import ROOT, Worker
from compress.training.data import check_classes, load_data, sample_images

IMAGES = 64  # that calibrate, and of noise that are compared
BASELINE = "torch"
INT8, BF16, TOPK = Int8(), Bf16(), TopK(keep=0.7)
MIXED = Int8(fallback_dtype="bf16")
OURS: dict[str, tuple[str, tuple[Method, ...]]] = {  # runtime and methods; PyTorch and engines in float among them
    BASELINE: ("torch", ()),
    "torch_compile": ("torch.compile", ()),
    "torch_bf16": ("torch", (BF16,)),
    "torch_bf16_compile": ("torch.compile", (BF16,)),
    "onnxruntime": ("onnxruntime", ()),
    "openvino": ("openvino", ()),
    "ours_ort_static": ("onnxruntime", (INT8,)),
    "ours_ort_tensor": ("onnxruntime", (Int8(activations="tensor"),)),
    "ours_ort_token": ("onnxruntime", (Int8(activations="token"),)),
    "ours_openvino": ("openvino", (INT8,)),
    "ours_openvino_bf16": ("openvino", (MIXED,)),
    "ours_bf16": ("openvino", (BF16,)),
    "ours_topk_ort": ("onnxruntime", (TOPK, INT8)),
    "ours_topk_openvino_bf16": ("openvino", (TOPK, MIXED)),
    "ours_compile": ("torch.compile", (INT8,)),
}
PEERS = {  # runtime, file that the peer makes, and its dtype
    "ort_dynamic": ("onnxruntime", "ort_dynamic/model.onnx", "int8"),
    "ort_static": ("onnxruntime", "ort_static/model.onnx", "int8"),
    "ort_static_all": ("onnxruntime", "ort_static_all/model.onnx", "int8"),
    "openvino_bf16": ("openvino", "openvino/bf16.xml", "bf16"),
    "nncf": ("openvino", "nncf/fp32.xml", "int8"),
    "nncf_bf16": ("openvino", "nncf/bf16.xml", "int8"),
    "torchao": ("torchao", "torchao/model.pt2", "int8"),
    "torchao_bf16": ("torchao", "torchao/model.pt2", "int8"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="deit-s", help="unless there is a checkpoint")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="of a float model without methods")
    parser.add_argument("--data", metavar="NAME", help="of the checkpoint, if not the set it was trained on")
    parser.add_argument("--test-images", type=int, default=1000, help="scored with a checkpoint")
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--threads", type=int, default=environment.available_cpus())
    parser.add_argument("--seconds", type=float, default=300, help="of measurement for each batch size")
    parser.add_argument("--rows", help=f"by commas, all by default: {', '.join([*OURS, *PEERS])}")
    parser.add_argument("--folder", type=Path, help="where artifacts are kept and found again")
    parser.add_argument("--out", type=Path, help="run directory for the rows, which compress report renders")
    options = parser.parse_args()
    if options.data and not options.checkpoint:
        raise InputError(f"--data {options.data} needs a model that knows its classes; give --checkpoint FILE too")
    chosen = terminal.names(options.rows, "--rows") if options.rows else [*OURS, *PEERS]
    if unknown := [name for name in chosen if name not in {**OURS, **PEERS}]:
        raise InputError(f"--rows {unknown[0]!r} is not known; choose from {', '.join([*OURS, *PEERS])}")
    console = terminal.make_console()
    with tempfile.TemporaryDirectory() as passing:
        folder = options.folder or Path(passing)
        if options.checkpoint:
            material = read_material(options, folder)
        else:
            material = make_noise(GEOMETRIES[options.geometry], IMAGES, folder)
        np.save(material.folder / "images.npy", material.calibration.numpy())
        names = dict.fromkeys([BASELINE, *chosen])  # everything is compared with the baseline
        candidates = [
            make_peer(material, name, options.threads)
            if name in PEERS
            else material.make_candidate(*OURS[name], recipe=name if OURS[name][1] else None)
            for name in names
        ]
        asked = Options(
            verb="int8",
            batch_sizes=terminal.numbers(options.batch_sizes, "--batch-sizes"),
            threads=options.threads,
            seconds=options.seconds,
            out=options.out,
        )
        console.print(reports.rich_table(evaluate(candidates, material.images, asked, console.print)))


def make_peer(material: Material, name: str, threads: int) -> Candidate:
    """What another library makes of the same weights; what torchao made runs in `int8_peers.py`."""
    runtime, file, dtype = PEERS[name]
    base = material.make_candidate("torch", ())
    engine = runtimes.get("torch" if runtime == "torchao" else runtime)
    start = None
    if runtime == "torchao":
        engine = copy.copy(engine)
        engine.name = runtime
        precision = "bf16" if name.endswith("bf16") else "fp32"

        def start(path: Path, device: str, threads: int) -> Worker:
            serve = [sys.executable, int8_peers.__file__, "serve", str(path), str(threads), precision]
            return Worker(serve, threads)

    return Candidate(
        variant=dtype,
        methods=({"name": dtype, "by": name},),
        runtime=engine,
        recipe=name,
        dtype=dtype,
        build=partial(prepare_peer, material, file),
        key=f"{material.folder.name} {name}",
        cost=base.cost,
        start=start,
    )


def prepare_peer(material: Material, file: str) -> Path:
    """The artifact that a peer makes, in a process of its own; raises RuntimeError where it could not."""
    for runtime in ("torch", "onnxruntime"):
        material.build(runtime, ())  # the float model, which peers start from
    name, path = file.split("/")[0], material.folder / file
    if not path.exists():
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, int8_peers.__file__, "prepare", name, str(material.folder)]
        environment = {**os.environ, "PYTHONPATH": paths}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            last = [line.strip() for line in done.stderr.splitlines() if line.strip()][-1:]
            raise RuntimeError(": ".join([f"{name} ended with exit code {done.returncode}", *last]))
    return path


def read_material(options: argparse.Namespace, folder: Path) -> Material:
    model, which, content = loading.restore_vit(options.checkpoint)
    if which.methods:
        raise InputError(f"{options.checkpoint} holds {which.name} already; give --checkpoint a float model")
    config, name = content.config, options.data or content.dataset
    data = load_data(name, config.image_size, config.channels, folder).with_normalization(content.mean, content.std)
    check_classes(options.checkpoint, content.classes, data)
    calibration = torch.cat(sample_images(data, IMAGES))
    return Material(model, content, calibration, take_test_images(data, options.test_images), folder)


if __name__ == "__main__":
    sys.exit(terminal.guarded(main))
