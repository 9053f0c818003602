"""Does leaving tokens out save time? A-ViT against the dense model, in turns, in one process.

    python benchmarks/halting.py --target 0.7 --batch-sizes 1,8,32

Random weights and images of the CIFAR geometry (384 wide, 6 deep, 65 tokens); the gate is calibrated to the target.
Which tokens stop is then random, but how many is not, and time depends only on that. `ceiling` is what the executed
multiply-accumulates allow, `realised` the share of it that became time. Two cores, AVX-512: about 2 minutes.
"""

import argparse

import torch
from rich.console import Console
from rich.table import Table

from baselines.macs import dense_macs, ragged_macs
from baselines.ragged import GROUP_SIZE, padded_widths
from baselines.vit import VisionTransformer, ViTConfig
from compress import variant
from compress.measure import environment, latency
from compress.methods import AViT
from compress.methods.avit import HaltingEncoder

GEOMETRIES = {
    "cifar": ViTConfig(dim=384, depth=6, heads=6, mlp_dim=1536),
    "small": ViTConfig(dim=128, depth=6, heads=4, mlp_dim=384),
    "deit-s": ViTConfig(image_size=224, patch_size=16, dim=384, depth=12, heads=6, mlp_dim=1536, classes=1000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="cifar")
    parser.add_argument("--target", type=float, default=0.7, help="share of the dense model's MACs")
    parser.add_argument("--batch-sizes", default="1,8,32")
    parser.add_argument("--threads", type=int, default=environment.available_cpus())
    parser.add_argument("--seconds", type=float, default=20, help="of measurement for each batch size")
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    environment.settle_allocator()
    config, method = GEOMETRIES[options.geometry], AViT(target_macs=options.target, gate_scale=4.0)
    dense = VisionTransformer(config).eval()
    halting = variant.prepare(dense, [method])
    images = torch.randn(64, config.channels, *config.image_size)
    method.calibrate(halting, [images])
    assert isinstance(halting.encoder, HaltingEncoder)

    table = Table(
        title=f"{options.geometry}, {options.threads} threads, {environment.cpu_name()}, torch {torch.__version__}"
    )
    for heading in ("batch", "dense ms", "avit ms", "speed-up [95 %]", "executed MACs", "ceiling", "realised"):
        table.add_column(heading, justify="right")
    for batch_size in (int(part) for part in options.batch_sizes.split(",")):
        table.add_row(*measure(dense, halting, images, batch_size, options.seconds))
    Console(width=120).print(table)


@torch.inference_mode()
def measure(
    dense: VisionTransformer, halting: VisionTransformer, images: torch.Tensor, batch_size: int, seconds: float
) -> list[str]:
    batches = images.split(batch_size)
    widths, counts = [], []
    for batch in batches:
        tokens = halting.forward_aux(batch)[1]["tokens"]
        counts.append(tokens)
        widths.append(padded_widths(tokens, GROUP_SIZE))
    macs = ragged_macs(dense.config, torch.cat(counts), torch.cat(widths)).mean().item()
    ceiling = dense_macs(dense.config) / macs
    timings = latency.interleave(
        {
            "dense": latency.here(lambda number: dense(batches[number % len(batches)])),
            "avit": latency.here(lambda number: halting(batches[number % len(batches)])),
        },
        budget_s=seconds,
    )
    middle, low, high = latency.speedup(timings["dense"], timings["avit"]) or (1.0, 1.0, 1.0)
    times = [sorted(timings[name].samples)[len(timings[name].samples) // 2] * 1e3 for name in ("dense", "avit")]
    return [
        str(batch_size),
        *(f"{time:.2f}" for time in times),
        f"{middle:.3f} [{low:.3f}, {high:.3f}]",
        f"{macs / dense_macs(dense.config):.3f}",
        f"{ceiling:.3f}",
        f"{(middle - 1) / (ceiling - 1):.2f}",
    ]


if __name__ == "__main__":
    main()
