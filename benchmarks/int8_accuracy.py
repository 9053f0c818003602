"""What 8 bits do to the answers of one float model: ours, NNCF and ONNX Runtime's quantizer, on the same images.

    python benchmarks/int8_accuracy.py --checkpoint vit.pth --data folder:images --normalize imagenet
    python benchmarks/int8_accuracy.py --checkpoint vit.pth --data folder:images --normalize imagenet --plant channels
    python benchmarks/int8_accuracy.py --geometry vit-b --plant token --rows ours,plain --test-images 64
    python benchmarks/int8_accuracy.py --geometry vit-b --data folder:images --fit-head 1000 --plant channels

Prints for each row SQNR of the logits, their cosine and how many images keep their class, all against the float model
in ONNX Runtime, top-1 where there are labels, and how long the file took to make. `ours` is what torch simulates of
the default, `plain` the same without any of the steps of calibration (min-max ranges, nearest levels). Peers start from
the float weights: `nncf` with the settings of our runtime of that name (tokenizer in float), `nncf_default` with its
own, `ort` as in `int8_peers.py` (QDQ, a scale per channel, products by weights).

`--plant` makes a model with outliers first: few channels behind each norm 200 times as large, which the next weights
undo, or a hidden unit of each block that is off for all tokens but the first, and about 50 there.
`--fit-head N` replaces the head by least squares on N training images, so that top-1 means something for a model
whose head knows other classes, or whose weights are random. Without a checkpoint weights are random, and so are
images unless `--data` names some.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from int8 import prepare_peer
from material import GEOMETRIES, Material, make_noise
from torch import Tensor

from baselines.data import Data
from baselines.errors import InputError
from baselines.vit import Block, VisionTransformer
from compress import loading, runtimes
from compress.checkpoints.checkpoint import Checkpoint
from compress.cli import terminal
from compress.evaluate import take_test_images
from compress.importers import Hints
from compress.methods import Int8
from compress.quantization.importance import watch_values
from compress.quantization.sensitivity import compute_logits, sqnr_db
from compress.runtimes.client import Worker, run_module
from compress.training.data import adapt_to_data, load_data, sample_images
from compress.variant import Variant

BATCH = 8
CHANNELS, TIMES = 3, 200.0  # planted behind a norm
LARGE = 50.0  # planted behind a GELU
RIDGE = 0.1  # of the mean variance of a feature, when a head is fitted
INT8, MIXED = Int8(), Int8(fallback_dtype="bf16")
PLAIN = Int8(observer="minmax", rescale=False, reconstruct=False, correct_bias=False, weigh=False)
SIMULATED = {"ours": INT8, "plain": PLAIN, "ours_token": Int8(activations="token")}
ENGINES = {  # runtime and method
    "ours_ort_static": ("onnxruntime", INT8),
    "ours_ort_tensor": ("onnxruntime", Int8(activations="tensor")),
    "ours_ort_token": ("onnxruntime", Int8(activations="token")),
    "ours_openvino": ("openvino", INT8),
    "ours_openvino_bf16": ("openvino", MIXED),
    "ours_nncf": ("nncf", INT8),
}
PEERS = {  # runtime, and the file that `int8_peers.py` makes
    "nncf": ("openvino", None),
    "nncf_default": ("openvino", "nncf/fp32.xml"),
    "nncf_bf16": ("openvino", "nncf/bf16.xml"),
    "ort": ("onnxruntime", "ort_static/model.onnx"),
}
ROWS = (*SIMULATED, *ENGINES, *PEERS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="deit-s", help="unless there is a checkpoint")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="of a float model without methods")
    parser.add_argument("--data", metavar="NAME", help="of the checkpoint, if not the set it was trained on")
    parser.add_argument("--normalize", metavar="NAME", help="of a checkpoint that does not say it")
    parser.add_argument("--calibration-images", type=int, default=64)
    parser.add_argument("--test-images", type=int, default=400)
    parser.add_argument("--plant", choices=("channels", "token"), help="outliers")
    parser.add_argument("--fit-head", type=int, metavar="N", help="training images that a new head is fitted to")
    parser.add_argument("--rows", help=f"by commas, all by default: {', '.join(ROWS)}")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    chosen = terminal.names(options.rows, "--rows") if options.rows else [*ROWS]
    if unknown := [name for name in chosen if name not in ROWS]:
        raise InputError(f"--rows {unknown[0]!r} is not known; choose from {', '.join(ROWS)}")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        material = read_material(options, Path(folder))
        images = [batch.copy() for batch in material.images.batches(BATCH)]
        wanted = run(material.build("onnxruntime", ()), "onnxruntime", images, options.threads)
        labels = material.images.labels
        print(f"{'row':20}{'SQNR, dB':>10}{'cosine':>10}{'same class':>12}{'top-1':>8}{'made in, s':>12}")
        print(f"{'float':20}{'':32}{describe_top1(wanted, labels)}{'':12}   {len(wanted)} images", flush=True)
        for name in chosen:
            began = time.perf_counter()
            try:
                answer = prepare(name, material, options.threads)
                seconds = time.perf_counter() - began
                got = answer(images)
                print(f"{name:20}{describe(wanted, got)}{describe_top1(got, labels)}{seconds:12.0f}", flush=True)
            except RuntimeError as error:
                print(f"{name:20}{error}", flush=True)


def prepare(name: str, material: Material, threads: int) -> Callable[[list[np.ndarray]], Tensor]:
    """Makes what a row is about; what it answers to batches of images.

    Raises:
        RuntimeError: it cannot be made.
    """
    if name in SIMULATED:
        model = material.prepare(Variant((SIMULATED[name],)))
        return lambda images: compute_logits(model, map(torch.from_numpy, images))
    if name in ENGINES:
        runtime, method = ENGINES[name]
        path = material.build(runtime, (method,))
    else:
        np.save(material.folder / "images.npy", material.calibration.numpy())
        runtime, file = PEERS[name]
        path = prepare_peer(material, file) if file else quantize_with_nncf(material, threads)
    return lambda images: run(path, runtime, images, threads)


def quantize_with_nncf(material: Material, threads: int) -> Path:
    """The file that NNCF makes of the float model, as our runtime asks it to."""
    source, path = material.build("onnxruntime", ()), material.folder / "nncf.xml"
    environment = runtimes.get("nncf").environment
    run_module(
        "compress.runtimes.nncf_quantize",
        source,
        material.folder / "images.npy",
        path,
        threads,
        environment=environment,
    )
    return path


def run(path: Path, runtime: str, images: list[np.ndarray], threads: int) -> Tensor:
    """Logits (n, C) that an engine gives."""
    with Worker.start(runtime, path, "cpu", threads) as worker:
        worker.ready()
        return torch.from_numpy(np.concatenate([worker.logits(batch) for batch in images]))


def describe(wanted: Tensor, got: Tensor) -> str:
    cosine = torch.nn.functional.cosine_similarity(wanted, got).mean().item()
    same = (wanted.argmax(1) == got.argmax(1)).double().mean().item()
    return f"{sqnr_db(wanted, got):10.1f}{cosine:10.5f}{same:12.1%}"


def describe_top1(logits: Tensor, labels: np.ndarray | None) -> str:
    return f"{'':8}" if labels is None else f"{(logits.argmax(1).numpy() == labels).mean():8.1%}"


def read_material(options: argparse.Namespace, folder: Path) -> Material:
    """The float model, with outliers where they are asked for, and images."""
    if options.fit_head and not (options.checkpoint or options.data):
        raise InputError("--fit-head needs labelled images; name them with --data")
    if not (options.checkpoint or options.data):
        count = max(options.calibration_images, options.test_images)
        material = make_noise(GEOMETRIES[options.geometry], count, folder)
        material.calibration = material.calibration[: options.calibration_images]
        plant(material.model, options.plant, material.calibration[:BATCH])
        material.content = dataclasses.replace(material.content, state=material.model.state_dict())
        return material
    model, content, data = read_model(options, folder)
    if options.fit_head:
        fit_head(model, data, options.fit_head)
    calibration = torch.cat(sample_images(data, options.calibration_images))
    plant(model, options.plant, calibration[:BATCH])
    content = dataclasses.replace(content, state=model.state_dict())
    return Material(model, content, calibration, take_test_images(data, options.test_images), folder)


def read_model(options: argparse.Namespace, folder: Path) -> tuple[VisionTransformer, Checkpoint, Data]:
    """The model of `--checkpoint`, or random weights, and the images that go with it."""
    if not options.checkpoint:
        geometry = GEOMETRIES[options.geometry]
        data = load_data(options.data, geometry.image_size, geometry.channels, folder)
        torch.manual_seed(0)
        model = VisionTransformer(geometry.model_copy(update={"classes": len(data.classes)})).eval()
        return model, Checkpoint(model.config, (), {}, data.name, data.classes, data.mean, data.std), data
    hints = Hints(normalize=options.normalize)
    model, which, content = loading.restore_vit(options.checkpoint, hints)
    if which.methods:
        raise InputError(f"{options.checkpoint} holds {which.name} already; give --checkpoint a float model")
    data = load_data(options.data or content.dataset, content.config.image_size, content.config.channels, folder)
    say = (lambda _: None) if options.fit_head else print  # that the head knows no class is why another is fitted
    content, data = adapt_to_data(options.checkpoint, model, content, data, hints, say)
    return model, content, data


@torch.no_grad()
def fit_head(model: VisionTransformer, data: Data, count: int) -> None:
    """Ridge regression of one-hot labels on what the head sees of `count` training images."""
    chosen = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(1))[:count]
    seen: list[Tensor] = []
    hook = model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].double()))
    labels = []
    for images, answers in data.batches(data.train, BATCH, torch.device("cpu"), indices=chosen):
        model(images)
        labels.append(answers)
    hook.remove()
    features = torch.cat(seen)
    targets = torch.nn.functional.one_hot(torch.cat(labels), len(data.classes)).double()
    targets = 10 * (targets - targets.mean(0))  # about the size of trained logits
    mean = features.mean(0)
    gram = (features - mean).T @ (features - mean)
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, (features - mean).T @ targets).T
    model.head.weight.copy_(weight)
    model.head.bias.copy_(-weight @ mean)


@torch.no_grad()
def plant(model: VisionTransformer, kind: str | None, images: Tensor) -> None:
    """Outliers of the kinds that large pretrained models have."""
    blocks = [block for block in model.encoder.blocks if isinstance(block, Block)]
    if kind == "channels":
        for block in blocks:
            for norm, linear in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
                for values in (norm.get_parameter("weight"), norm.get_parameter("bias")):
                    values[:CHANNELS] *= TIMES
                linear.weight[:, :CHANNELS] /= TIMES
    elif kind == "token":
        for block in blocks:
            seen: list[Tensor] = []
            watch_values(model, {"fc1": block.mlp.fc1}, [images], lambda _, x, *__, to=seen: to.append(x), weighed=0)
            first, others = seen[0][:, 0].mean(0), seen[0][:, 1:].flatten(0, 1).mean(0)
            direction = (first - others) / (first - others).square().sum()  # 1 apart
            block.mlp.fc1.weight[0] = 4 * LARGE * direction  # 3/4 of the way to the first token is 0
            block.mlp.fc1.bias[0] = -4 * LARGE * (direction @ (others + 0.75 * (first - others)))
            block.mlp.fc2.weight[:, 0] /= LARGE


if __name__ == "__main__":
    sys.exit(terminal.guarded(main))
