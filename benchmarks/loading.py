"""What it takes to load a checkpoint: time, beside reading its bytes, and memory, beside its size.

    python benchmarks/loading.py

A ViT-B/16 with random weights (346 MB) is written in every format; each is loaded in a process of its own, in turns
with a process that only reads the file's bytes, from a warm page cache. Memory is the peak of what is resident while
loading, less what was resident before; pages of the file that are mapped count, though they cost nothing to give back.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from rich.console import Console
from rich.table import Table

from baselines.vit import VisionTransformer, ViTConfig
from compress import loading, runtimes
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import Checkpoint
from compress.importers import LAYOUTS
from compress.importers.base import ImportedModel

SIZES = {"dim": 768, "depth": 12, "heads": 12, "mlp_dim": 3072, "classes": 1000, "image_size": 224, "patch_size": 16}


def write(folder: Path) -> list[Path]:
    """The same model in several formats."""
    config = ViTConfig(**SIZES, norm_eps=1e-6)
    torch.manual_seed(0)
    state = VisionTransformer(config).state_dict()
    names = tuple(map(str, range(1000)))
    checkpoint.save(folder / "compress.pth", Checkpoint(config, (), state, "digits", names, (0.5,) * 3, (0.5,) * 3))
    out = {family.name: family.write(ImportedModel(config, state, names)) for family in LAYOUTS if family.write}
    torch.save(out["timm"].tensors, folder / "timm.pth")
    torch.save({"state_dict": {name: value.half() for name, value in out["timm"].tensors.items()}}, folder / "fp16.pth")
    safetensors.torch.save_file(out["timm"].tensors, folder / "timm.safetensors")
    torch.save(out["torchvision"].tensors, folder / "torchvision.pth")
    hub = folder / "huggingface"
    hub.mkdir()
    safetensors.torch.save_file(out["huggingface"].tensors, hub / "model.safetensors")
    (hub / "config.json").write_text(json.dumps(out["huggingface"].settings))
    np.savez(folder / "google.npz", **google(state))  # pyright: ignore[reportArgumentType]
    return sorted(each for each in folder.iterdir())


def google(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The arrays of the same model as Google lays them out."""
    found = {"cls": state["cls_token"], "Transformer/posembed_input/pos_embedding": state["pos_embed"]}
    found |= {
        "embedding/kernel": state["patch_embed.weight"].permute(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.bias"],
    }
    found |= {"head/kernel": state["head.weight"].t(), "head/bias": state["head.bias"]}
    for theirs, ours in [("Transformer/encoder_norm", "norm")]:
        found |= {f"{theirs}/scale": state[f"{ours}.weight"], f"{theirs}/bias": state[f"{ours}.bias"]}
    for i in range(12):
        ours, theirs = f"encoder.blocks.{i}.", f"Transformer/encoderblock_{i}/"
        for norm, name in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            found |= {
                f"{theirs}{name}/scale": state[f"{ours}{norm}.weight"],
                f"{theirs}{name}/bias": state[f"{ours}{norm}.bias"],
            }
        attention = f"{theirs}MultiHeadDotProductAttention_1/"
        parts = zip(state[f"{ours}attn.qkv.weight"].chunk(3), state[f"{ours}attn.qkv.bias"].chunk(3), strict=True)
        for name, (weight, bias) in zip(("query", "key", "value"), parts, strict=True):
            found |= {
                f"{attention}{name}/kernel": weight.t().reshape(768, 12, 64),
                f"{attention}{name}/bias": bias.view(12, 64),
            }
        found |= {f"{attention}out/kernel": state[f"{ours}attn.proj.weight"].t().reshape(12, 64, 768)}
        found |= {f"{attention}out/bias": state[f"{ours}attn.proj.bias"]}
        for number in (1, 2):
            dense = f"{theirs}MlpBlock_3/Dense_{number - 1}/"
            found |= {
                f"{dense}kernel": state[f"{ours}mlp.fc{number}.weight"].t(),
                f"{dense}bias": state[f"{ours}mlp.fc{number}.bias"],
            }
    return {name: np.ascontiguousarray(value.numpy()) for name, value in found.items()}


def resident(name: str) -> int:
    """Bytes, as the kernel counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def child(what: str, path: Path) -> None:
    """Loads or reads once; prints seconds and bytes."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, started = resident("VmRSS"), time.perf_counter()
    if what == "load":
        kept: object = loading.restore(path)
    else:
        kept = [each.read_bytes() for each in (path.iterdir() if path.is_dir() else [path])]
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "bytes": resident("VmHWM") - before, "kept": kept is not None}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]))
        return
    table = Table(title="loading a ViT-B/16")
    for heading in ("file", "MB", "reading its bytes, s", "loading, s", "loading / reading", "peak / size"):
        table.add_column(heading, justify="right" if heading != "file" else "left")
    with tempfile.TemporaryDirectory() as folder:
        for path in write(Path(folder)):
            size = sum(runtimes.count_bytes(each) for each in (path.iterdir() if path.is_dir() else [path]))
            found: dict[str, list[dict[str, float]]] = {"read": [], "load": []}
            for _ in range(options.rounds):
                for what, runs in found.items():
                    command = [sys.executable, __file__, "--child", what, str(path)]
                    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                    runs.append(json.loads(said.splitlines()[-1]))
            reading, loading = (statistics.median(run["seconds"] for run in runs) for runs in found.values())
            peak = max(run["bytes"] for run in found["load"]) / size
            table.add_row(
                path.name,
                f"{size / 1e6:.0f}",
                f"{reading:.2f}",
                f"{loading:.2f}",
                f"{loading / reading:.2f}",
                f"{peak:.2f}",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
