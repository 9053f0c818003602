"""What is looked at while a model learns: training images held out, and whatever a probe measures."""

import copy
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from baselines.data import Data, Split, choose_batch
from baselines.distributed import ALONE, World
from baselines.errors import InputError
from baselines.recipe import TrainConfig
from baselines.step import Probe
from baselines.vit import VisionTransformer


@torch.inference_mode()
def count_right(
    model: nn.Module, data: Data, split: Split, indices: Tensor, device: torch.device, world: World = ALONE
) -> tuple[Tensor, Tensor]:
    """For each class, how many of the given images of a split `model` gets right, and how many there are."""
    model.eval()
    right, seen = torch.zeros(2, len(data.classes), device=device)
    mine = indices[world.part(len(indices))]
    for images, labels in data.batches(split, choose_batch(split.shape), device, indices=mine) if len(mine) else ():
        hit = model(images).argmax(1) == labels
        right.index_add_(0, labels, hit.to(right.dtype))  # for a bincount the host would wait
        seen.index_add_(0, labels, torch.ones_like(labels, dtype=seen.dtype))
    return world.sum(right), world.sum(seen)


def score_held_out(
    model: nn.Module, data: Data, indices: Tensor, config: TrainConfig, device: torch.device, world: World
) -> tuple[float, dict[str, float]]:
    """What chooses an epoch, top-1 or the mean recall of the classes, and both for the record."""
    right, seen = count_right(model, data, data.train, indices, device, world)
    top1, recall = right.sum() / seen.sum(), (right / seen)[seen > 0].mean()
    record = {"validation_top1": top1.item(), "validation_recall": recall.item()}
    return record[f"validation_{config.chosen_by}"], record


def probed(probe: Probe | None, model: nn.Module) -> Mapping[str, float]:
    """What `probe` says of a copy of `model`; nothing where there is no probe."""
    return probe(cast(VisionTransformer, copy.deepcopy(model))) if probe is not None else {}


def hold_out(split: Split, fraction: float) -> tuple[Tensor, Tensor]:
    """Indices to train on and to validate with, ascending; the same for every seed, so that variants share them.

    Each class gives its share, to within one image.

    Raises:
        InputError: one of both parts is empty, though a share was asked for.
    """
    total = len(split.labels)
    held = round(total * fraction)
    if fraction and not 0 < held < total:
        left = "none to learn from" if held else "none to validate with"
        raise InputError(f"[train] validation = {fraction:g} of {total:,} training images leaves {left}; change it")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    order = order[split.labels[order].argsort(stable=True)]  # class by class
    chosen = torch.zeros(total, dtype=torch.bool)
    chosen[order[(2 * torch.arange(held) + 1) * total // (2 * max(held, 1))]] = True  # evenly spaced
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()
