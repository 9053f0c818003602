"""How much the outcome of int8 hangs on which training images calibrate it, and on how many."""

import statistics
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor

from baselines.data import Data
from baselines.errors import InputError
from baselines.progress import progress_bar
from baselines.vit import VisionTransformer
from compress.methods import Int8
from compress.quantization.sensitivity import compute_logits, sqnr_db
from compress.training.data import sample_images
from compress.verbs.quantize.accuracy_control import in_integers

SIZES = (16, 64, 256, 1024)
SEEDS = 5
BATCH = 250


@dataclass(frozen=True)
class Spread:
    """Outcomes of calibration with as many images, one for each draw of them."""

    images: int
    change: tuple[float, ...]  # of top-1 on test images against the float model, in points
    sqnr_db: tuple[float, ...]  # of the logits of those images


def study(
    model: VisionTransformer,
    method: Int8,
    data: Data,
    sizes: tuple[int, ...] = SIZES,
    seeds: int = SEEDS,
    test_images: int | None = None,
) -> list[Spread]:
    """Calibrates again and again. Test images only measure: nothing is chosen by what they say.

    Args:
        model: float, in evaluation mode, not prepared for `method`; it is not changed.
        sizes: numbers of calibration images; those beyond the training images are left out.
        seeds: draws of each size.
        test_images: how many, drawn at random but always the same; all by default.

    Raises:
        InputError: there are fewer training images than the smallest size.
    """
    device = next(model.parameters()).device
    sizes = tuple(size for size in sizes if size <= len(data.train.labels))
    if not sizes:
        raise InputError(
            f"{data.name} has {len(data.train.labels)} training images, too few for a calibration study; give more data"
        )
    order = torch.randperm(len(data.test.labels), generator=torch.Generator().manual_seed(0))[:test_images]
    labels = data.test.labels[order]

    def answers(model: VisionTransformer) -> Tensor:
        return compute_logits(model, (images for images, _ in data.batches(data.test, BATCH, device, indices=order)))

    wanted = answers(model)
    right = top1(wanted, labels)
    spreads = []
    with progress_bar("calibrating", len(sizes) * seeds, 0) as advance:
        for size in sizes:
            change, sqnr = [], []
            for seed in range(seeds):
                drawn = [batch.to(device) for batch in sample_images(data, size, seed)]
                got = answers(in_integers(model, method, drawn))
                change.append(top1(got, labels) - right)
                sqnr.append(sqnr_db(wanted, got))
                advance(f"{size} images, seed {seed}")
            spreads.append(Spread(size, tuple(change), tuple(sqnr)))
    return spreads


def top1(logits: Tensor, labels: Tensor) -> float:
    """In points."""
    return 100 * (logits.argmax(1) == labels).double().mean().item()


def table(spreads: list[Spread], sizes: tuple[int, ...] = SIZES) -> Table:
    """A line for each number of images: means and standard deviations over the draws, and the worst of them.

    Args:
        sizes: that were asked for; what is missing is named.
    """
    left = [str(size) for size in sizes if size not in {spread.images for spread in spreads}]
    draws = len(spreads[0].change)
    table = Table(
        title=f"int8 by its calibration images, {draws} draws of each number",
        caption=f"left out, there are not so many training images: {', '.join(left)}" if left else None,
    )
    for heading in ("images", "top-1, points against float", "worst", "SQNR of the logits, dB", "worst"):
        table.add_column(heading, justify="right")
    for spread in spreads:
        table.add_row(
            f"{spread.images:,}",
            f"{statistics.fmean(spread.change):+.2f}{deviation(spread.change)}",
            f"{min(spread.change):+.2f}",
            f"{statistics.fmean(spread.sqnr_db):.1f}{deviation(spread.sqnr_db)}",
            f"{min(spread.sqnr_db):.1f}",
        )
    return table


def deviation(values: tuple[float, ...]) -> str:
    return f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
