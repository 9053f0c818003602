"""The images that judge `--max-drop`: none that the model learned from, where a drop looks too small."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from baselines.data import Data
from baselines.errors import InputError
from baselines.subset import Subset
from compress.checkpoints.checkpoint import Checkpoint
from compress.evaluate import Images
from compress.training.data import BATCH, sample_held_out_images
from compress.training.held_out import find_held_out
from compress.variant import Variant
from compress.verbs.quantize.accuracy_control import Judged

MOST = 1000  # images that judge
FEWEST = 100  # training images kept from training, below which test images judge


@dataclass(frozen=True)
class Jury:
    """Images that judge, and what is left to measure what came of it."""

    batches: Judged
    called: str  # as in "on 180 CALLED"
    scored: Images
    tested: int = 0  # how many of those that judge are test images, which are not scored again


def choose_jury(
    path: Path, content: Checkpoint, which: Variant, data: Data, subset: Subset | None, images: Images, after: int
) -> Jury:
    """Training images that were kept from training, where its record says so; else half of the test images.

    Args:
        path: of the checkpoint.
        subset: that `data` was cut to.
        images: test images that were to be scored.
        after: so many training images calibrate.

    Raises:
        InputError: there are too few test images for two halves.
    """
    kept = find_held_out(path, content, which, data, subset)
    if kept is not None:
        batches = sample_held_out_images(data, MOST, after, kept)
        if sum(len(labels) for _, labels in batches) >= FEWEST:
            return Jury(batches, "training images that were kept from training", images)
    if len(images) < 2:
        raise InputError("--max-drop is judged on one half of the test images and measured on the other; give two")
    judging, scored = images.order[: min(len(images) // 2, MOST)], images.order[min(len(images) // 2, MOST) :]
    batches = [*data.batches(data.test, BATCH, torch.device("cpu"), indices=judging)]
    called = "test images, which the figures below leave out (training images are known to the model)"
    return Jury(batches, called, replace(images, order=scored), len(judging))
