"""Methods are added to a model that exists: it is fine-tuned where one of them trains, and calibrated."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from baselines.classifier import Classifier
from baselines.data import Data, choose_batch
from baselines.distributed import ALONE, World
from baselines.guided import GuidedTrainer
from baselines.train import TrainConfig, fit
from baselines.validation import count_right
from baselines.vit import VisionTransformer
from compress.measure.cost import count_batch_macs
from compress.measure.statistics import wilson
from compress.methods import Method
from compress.variant import prepare

SHARE, MOST, FEW = 0.1, 2000, 1000  # of training images that choose an epoch; fewer in all are too few to spare any
Model = TypeVar("Model", bound=Classifier)


def apply(
    start: Model,
    done: Sequence[Method],
    new: Sequence[Method],
    data: Data,
    *,
    teacher: Any,
    training: TrainConfig,
    calibration: list[Tensor],
    device: torch.device,
    seed: int,
    title: str,
    start_competes: bool = False,
    world: World = ALONE,
    **keeping: Any,
) -> tuple[Model, list[dict[str, float]]]:
    """Adds methods to a model that already holds others; `start` is untouched.

    Args:
        start: model with `done` applied and trained.
        new: methods to add; the model is fine-tuned if one of them trains, with the loss terms of all methods.
        teacher: whom those learn from that need one.
        calibration: normalized training images, each (B, C, height, width).
        start_competes: whether the weights stay what they were where images held out say that no epoch is better.
        keeping: `snapshot` and `log` of `fit`.

    Returns:
        The model, not converted, in evaluation mode, and a record for each epoch. Where it was fine-tuned, that holds
        the `top1` and `macs` it would have ended with, the first also those it began with.
    """
    model: Any = prepare(start, new).to(device)
    for method in new:
        method.initialize(model, [batch.to(device) for batch in calibration])
        training = method.adapt_training(training)
    history: list[dict[str, float]] = []
    ready = partial(calibrate, methods=new, images=calibration, device=device)

    def worth(model: VisionTransformer) -> dict[str, float]:
        """For the record alone: test images score, and nothing is ever chosen by what they say."""
        return score(ready(model), data, device, world)

    if any(method.tuned for method in new):
        methods = [*done, *new]
        history = fit(
            model,
            data,
            training,
            device=device,
            seed=seed,
            title=title,
            terms=[method.loss_terms for method in methods],
            teacher=teacher.to(device).eval() if any(method.needs_teacher for method in methods) else None,
            lr_scale={prefix: scale for method in methods for prefix, scale in method.lr_scale().items()},
            world=world,
            **keeping,
            trainer=make_trainer(methods, model, teacher),
            probe=None if any(method.from_scratch for method in new) else worth,
            ready=ready if start_competes else None,
        )
    return ready(model), history


def describe_choice(history: Sequence[Mapping[str, float]], held_out: int) -> str:
    """Which epoch was kept, and what that won on the images held out."""
    before, top1 = history[0]["before_validation_top1"], [record["validation_top1"] for record in history]
    best = max(range(len(top1)), key=lambda index: (top1[index], index))
    of = f"of {held_out:,} training images held out"
    if top1[best] < before:
        return f"no epoch was better than the start ({before:.1%} {of}; at best {top1[best]:.1%}): its weights are kept"
    return f"epoch {best + 1} of {len(top1)} is kept: {top1[best]:.1%} {of}, {before:.1%} before"


def hold_out_for_choice(training: TrainConfig, images: int) -> TrainConfig:
    """The settings with a share of the training images that chooses the epoch, unless they say one or there are few."""
    if "validation" in training.model_fields_set or images < FEW:
        return training
    return training.model_copy(update={"validation": min(SHARE, MOST / images)})


def calibrate(model: Model, methods: Sequence[Method], images: list[Tensor], device: torch.device) -> Model:
    """The same model, in evaluation mode, after each of the methods has measured on training images what it needs."""
    made: Any = model.eval()
    for method in methods:
        method.calibrate(made, [batch.to(device) for batch in images])
    return model.eval()


@torch.inference_mode()
def score(model: VisionTransformer, data: Data, device: torch.device, world: World = ALONE) -> dict[str, float]:
    """Runs all test images through `model` once, each process its part of them.

    Args:
        model: on `device`, calibrated, not converted.

    Returns:
        `top1`, and `macs`: multiply-accumulates of an image alone, mean over the images.
    """
    model.eval()
    total = len(data.test.labels)
    mine = torch.arange(total)[world.part(total)]
    summed = torch.zeros(2, dtype=torch.float64, device=device)  # right answers, MACs
    size = choose_batch(data.test.shape)
    for images, labels in data.batches(data.test, size, device, indices=mine) if len(mine) else ():
        output = model.compute_output(images)
        right, spent = (output.logits.argmax(1) == labels).sum(), count_batch_macs(model, output).sum()
        summed += torch.stack([right.double(), spent.to(device, non_blocking=True)])
    top1, macs = (world.sum(summed) / total).tolist()
    return {"top1": top1, "macs": macs}


def describe_accuracy(model: Classifier, data: Data, device: torch.device, world: World = ALONE) -> str:
    """Top-1 on all test images, each process its part of them, with its interval."""
    right, seen = count_right(model.to(device), data, data.test, torch.arange(len(data.test.labels)), device, world)
    hits, total = int(right.sum()), int(seen.sum())
    low, high = wilson(hits, total)
    return f"top-1 {hits / total:.1%} [{100 * low:.1f}, {100 * high:.1f}] of {total:,} test images"


def make_trainer(methods: Sequence[Method], model: VisionTransformer, teacher: Any) -> partial[GuidedTrainer]:
    """A training of `model` in which labels count as much as methods leave to them."""
    projectors = (method.make_projector(model, teacher) for method in methods)
    projector = next((each for each in projectors if each is not None), None)
    return partial(
        GuidedTrainer, label_weight=math.prod(method.label_weight() for method in methods), projector=projector
    )
