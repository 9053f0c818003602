"""The images that choose: training images that are held out. Test images score what was chosen, and nothing before."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from baselines.data import Data
from baselines.errors import InputError
from baselines.subset import Part
from baselines.validation import hold_out
from compress.checkpoints.checkpoint import Checkpoint
from compress.config import BenchConfig
from compress.training.data import shuffle_indices
from compress.training.held_out import find_held_out
from compress.variant import Variant
from compress.verbs.quantize.jury import FEWEST

SHARE = 0.2  # of the training images that choose, at most
NAME = "held-out training images"


@dataclass(frozen=True)
class HeldOut:
    """A data set whose "test" images are training images that are held out.

    Args:
        share: of the training images, as `hold_out` takes it, that no fine-tuning may learn from.
        seen: whether the model may have learned from them.
    """

    data: Data
    share: float
    seen: bool

    @property
    def warning(self) -> str | None:
        if not self.seen:
            return None
        return (
            "the model may have learned from the training images that choose (nothing says which it did not): what it "
            "loses on others can be more"
        )


def hold_out_images(
    path: Path, content: Checkpoint, which: Variant, data: Data, settings: BenchConfig, count: int
) -> HeldOut:
    """Takes images that were kept from training, where a record beside the checkpoint says so; else any.

    Images that calibrate are never among them. The training split stays whole, so that the same images calibrate as in
    a bench.

    Raises:
        InputError: there are too few training images.
    """
    total = len(data.train.labels)
    kept = find_held_out(path, content, which, data, settings.subset)
    seen = kept is None or len(kept) < FEWEST
    share = min(SHARE, count / total) if kept is None or seen else len(kept) / total
    chosen = hold_out(data.train, share)[1]
    calibrating = shuffle_indices(data)[: settings.calibration_images]
    chosen = chosen[~torch.isin(chosen, calibrating)]
    if not len(chosen):
        raise InputError(
            f"{data.name} has {total} training images and those held out calibrate; set calibration_images lower"
        )
    held = replace(data, name=f"{data.name}, {NAME}", test=Part(data.train, chosen))
    return HeldOut(held, share, seen)
