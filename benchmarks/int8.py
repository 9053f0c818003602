"""int8 as this package makes and lowers it against what others offer: the same float weights, all rows in turns.

    python benchmarks/int8.py --geometry deit-s --batch-sizes 1,8 --threads 1 --folder artifacts
    python benchmarks/int8.py --geometry cifar --batch-sizes 1,32 --rows nncf,nncf_bf16,ours_openvino_bf16
    python benchmarks/int8.py --checkpoint best_vit_model.pth --data cifar10 --test-images 2000 --batch-sizes 1

Peers (how they are told what to do stands in `int8_peers.py`): PyTorch, ONNX Runtime and OpenVINO in float, ONNX
Runtime's own quantisers, NNCF and torchao. Rows that begin with `ours_` are ours; those with topk also drop tokens,
without any fine-tuning. Every quantiser sees the same 64 images, every row runs in a process of its own, and engines
are told the same threads and waiting in all rows; what torch compiles is compiled before anything is timed. A row that
cannot run is a line that says why.

Without a checkpoint weights and images are random: times are real, SQNR compares quantisers on the same numbers, and
agreement shows gross faults only. With one, images are those of its data. `speed-up` is over torch fp32, `to best
peer` over the peer of most speed-up, both round by round, which a busy machine disturbs less than `p50`. SQNR is of the
logits, and agreement of the class, with those of torch fp32.
Artifacts in --folder are found again as long as weights, images and settings stay; remove it after a change of code.
"""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch
from int8_contest import BASELINE, Contest, Material, Row, show

from baselines.errors import InputError
from baselines.vit import VisionTransformer, ViTConfig
from compress import loading, runtimes
from compress.checkpoints.checkpoint import Checkpoint
from compress.cli import terminal
from compress.measure import environment
from compress.methods import Bf16, Int8, TopK
from compress.training.data import check_classes, load_data, sample_images

GEOMETRIES = {
    "cifar": ViTConfig(dim=384, depth=6, heads=6, mlp_dim=1536),
    "deit-s": ViTConfig(image_size=(224, 224), patch_size=16, dim=384, depth=12, heads=6, mlp_dim=1536, classes=1000),
    "tiny": ViTConfig(image_size=(8, 8), channels=1, patch_size=2, dim=32, depth=2, heads=2, mlp_dim=64),
}
IMAGES = 64  # that calibrate, and of noise that are compared


def rows() -> dict[str, Row]:
    int8, bf16 = Int8(), Bf16()
    topk, rest = TopK(keep=0.7), Int8(rest="bf16")
    found = {
        BASELINE: Row("torch"),
        "torch_compile": Row("torch.compile"),
        "torch_bf16": Row("torch", (bf16,)),
        "torch_bf16_compile": Row("torch.compile", (bf16,)),
        "onnxruntime": Row("onnxruntime"),
        "ort_dynamic": Row("onnxruntime", made="ort_dynamic/model.onnx"),
        "ort_static": Row("onnxruntime", made="ort_static/model.onnx"),
        "ort_static_all": Row("onnxruntime", made="ort_static_all/model.onnx"),
        "openvino": Row("openvino"),
        "openvino_bf16": Row("openvino", made="openvino/bf16.xml"),
        "nncf": Row("openvino", made="nncf/fp32.xml"),
        "nncf_bf16": Row("openvino", made="nncf/bf16.xml"),
        "torchao": Row("torchao", made="torchao/model.pt2"),
        "torchao_bf16": Row("torchao", made="torchao/model.pt2", precision="bf16"),
        "ours_ort_static": Row("onnxruntime", (int8,)),
        "ours_ort_tensor": Row("onnxruntime", (Int8(activations="tensor"),)),
        "ours_ort_token": Row("onnxruntime", (Int8(activations="token"),)),
        "ours_openvino": Row("openvino", (int8,)),
        "ours_openvino_bf16": Row("openvino", (rest,)),
        "ours_bf16": Row("openvino", (bf16,)),
        "ours_topk_ort": Row("onnxruntime", (topk, int8)),
        "ours_topk_openvino_bf16": Row("openvino", (topk, rest)),
    }
    if "int8" in runtimes.get("torch.compile").numbers:
        found["ours_compile"] = Row("torch.compile", (int8,))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="deit-s", help="unless there is a checkpoint")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="of a float model without methods")
    parser.add_argument("--data", metavar="NAME", help="of the checkpoint, if not the set it was trained on")
    parser.add_argument("--test-images", type=int, default=1000, help="scored with a checkpoint")
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--threads", type=int, default=environment.available_cpus())
    parser.add_argument("--seconds", type=float, default=300, help="of measurement for each batch size")
    parser.add_argument("--rows", help=f"by commas, all by default: {', '.join(rows())}")
    parser.add_argument("--folder", type=Path, help="where artifacts are kept and found again")
    options = parser.parse_args()
    if options.data and not options.checkpoint:
        raise InputError(f"--data {options.data} needs a model that knows its classes; give --checkpoint FILE too")
    chosen = terminal.names(options.rows, "--rows") if options.rows else list(rows())
    if unknown := [name for name in chosen if name not in rows()]:
        raise InputError(f"--rows {unknown[0]!r} is not known; choose from {', '.join(rows())}")
    with tempfile.TemporaryDirectory() as passing, ExitStack() as stack:
        folder = options.folder or Path(passing)
        material = trained(options, folder) if options.checkpoint else noise(GEOMETRIES[options.geometry])
        named = options.checkpoint.stem if options.checkpoint else options.geometry
        contest = Contest(material, folder / f"{named}-{material.digest}", options.threads, stack)
        for name in dict.fromkeys([BASELINE, *chosen]):  # everything is compared with the baseline
            contest.enter(name, rows()[name])
        for batch_size in terminal.numbers(options.batch_sizes, "--batch-sizes"):
            title = f"{named}, batch {batch_size}, threads {options.threads}, {environment.cpu_name()}"
            show(contest, batch_size, options.seconds, title)


def noise(config: ViTConfig) -> Material:
    torch.manual_seed(0)
    model = VisionTransformer(config).eval()
    calibration, images = torch.randn(2, IMAGES, config.channels, *config.image_size)
    with torch.no_grad():  # one class lies a little apart, or rounding would decide between many that are alike
        logits = model(calibration[:8])
        model.head.bias[logits.mean(0).argmax()] += logits.std()
    classes = tuple(str(index) for index in range(config.classes))
    zeros = (0.0,) * config.channels
    content = Checkpoint(config, (), model.state_dict(), "noise", classes, zeros, tuple(1.0 for _ in zeros))
    return Material(model, content, calibration, images, None)


def trained(options: argparse.Namespace, folder: Path) -> Material:
    model, which, content = loading.restore(options.checkpoint)
    if which.methods:
        raise InputError(f"{options.checkpoint} holds {which.name} already; give --checkpoint a float model")
    config, name = content.config, options.data or content.dataset
    data = load_data(name, config.image_size, config.channels, folder).normalised(content.mean, content.std)
    check_classes(options.checkpoint, content.classes, data)
    order = torch.randperm(len(data.test.labels), generator=torch.Generator().manual_seed(0))[: options.test_images]
    images, labels = zip(*data.batches(data.test, 250, torch.device("cpu"), indices=order), strict=True)
    calibration = torch.cat(sample_images(data, IMAGES))
    return Material(model, content, calibration, torch.cat(images), torch.cat(labels).numpy())


if __name__ == "__main__":
    sys.exit(terminal.guarded(main))
