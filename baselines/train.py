"""The training loop of this project: baselines, fine-tuning and distillation all run through `fit`.

What is learned beside the labels comes from outside, as named loss terms and a teacher. Every source of randomness
is seeded by (seed, epoch), so a run that was killed goes on from its last whole epoch and ends with the
weights it would have had.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from baselines.data import Data, Split
from baselines.device import fast_bf16
from baselines.optimizer import make_optimizer, schedule
from baselines.vit import VisionTransformer


class TrainConfig(BaseModel):
    """Settings of one training. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=100, ge=0)
    batch_size: int = Field(default=128, gt=0)
    lr: float = Field(default=1e-3, gt=0)  # peak learning rate of AdamW
    warmup_epochs: float = Field(default=5, ge=0)  # linear from 0 to lr, then cosine to 1 % of lr
    weight_decay: float = Field(default=0.05, ge=0)  # of matrices only
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    clip_norm: float = Field(default=1.0, gt=0)  # of the gradient over all parameters
    ema: float = Field(
        default=0.999, ge=0, lt=1
    )  # decay per step of the averaged weights that are kept; 0 keeps the last
    crop_padding: int = Field(default=4, ge=0)  # pixels
    flip: bool = True  # left to right
    bf16: bool = True  # autocast, where the device multiplies bf16 in hardware
    validation: float = Field(
        default=0.0, ge=0, lt=1
    )  # share of the training images that chooses the epoch; 0 keeps the last


@dataclass(frozen=True)
class Step:
    """What a loss term may look at."""

    model: VisionTransformer
    images: Tensor  # (B, C, height, width), normalised
    labels: Tensor  # (B,)
    logits: Tensor  # (B, classes)
    aux: dict[str, Tensor]  # by-products of the model's encoder
    teacher_logits: Tensor | None  # (B, classes), where a teacher was given
    progress: float  # share of the training that is done, 0 to 1


LossTerm = Callable[[Step], Mapping[str, Tensor]]


class Snapshot(Protocol):
    """Where an interrupted training is kept."""

    def load(self) -> dict[str, Any] | None: ...
    def save(self, state: dict[str, Any]) -> None: ...


def fit(
    model: VisionTransformer,
    data: Data,
    config: TrainConfig,
    *,
    device: torch.device,
    seed: int,
    title: str = "train",
    terms: Sequence[LossTerm] = (),
    teacher: nn.Module | None = None,
    lr_scale: Mapping[str, float] | None = None,
    snapshot: Snapshot | None = None,
) -> list[dict[str, float]]:
    """Trains `model` in place and leaves it in evaluation mode, holding the averaged weights of the chosen epoch.

    Args:
        terms: further losses, already weighted, by name; they are added to the cross entropy.
        teacher: its logits reach the terms; it is not trained.
        lr_scale: factors on the learning rate, by prefix of the parameter name.
        snapshot: where the state goes after each epoch, and comes from when a run goes on.

    Returns:
        One record an epoch: `loss`, its terms, `train_top1`, `validation_top1`, `lr`, `images_per_s`, `seconds`.
    """
    model.to(device)
    optimizer = make_optimizer(model, config.lr, config.weight_decay, lr_scale or {})
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
    train_indices, validation_indices = _hold_out(data.train, config.validation)
    steps = max(len(train_indices) // config.batch_size, 1)
    history: list[dict[str, float]] = []
    best: dict[str, Any] = {"top1": -1.0, "weights": None}
    if snapshot is not None and (state := snapshot.load()) is not None:
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        history, best = state["history"], state["best"]

    with _progress(title, config.epochs * steps, len(history) * steps) as advance:
        for epoch in range(len(history), config.epochs):
            torch.manual_seed(_mix(seed, epoch))
            record = _epoch(
                model,
                teacher,
                data,
                train_indices,
                config,
                optimizer,
                average,
                terms,
                device,
                seed,
                epoch,
                steps,
                advance,
            )
            if len(validation_indices):
                record["validation_top1"] = top1(average.module, data, validation_indices, device)
                if record["validation_top1"] >= best["top1"]:
                    weights = copy.deepcopy(average.module.state_dict())
                    best = {"top1": record["validation_top1"], "weights": weights}
            history.append(record)
            if snapshot is not None:
                snapshot.save(
                    {
                        "model": model.state_dict(),
                        "average": average.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "history": history,
                        "best": best,
                    }
                )
    if history:
        model.load_state_dict(best["weights"] or average.module.state_dict())
    model.eval()
    return history


def _epoch(
    model: VisionTransformer,
    teacher: nn.Module | None,
    data: Data,
    indices: Tensor,
    config: TrainConfig,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel,
    terms: Sequence[LossTerm],
    device: torch.device,
    seed: int,
    epoch: int,
    steps: int,
    advance: Callable[[str], None],
) -> dict[str, float]:
    model.train()
    started = time.perf_counter()
    total_steps = config.epochs * steps
    batches = data.batches(
        data.train,
        config.batch_size,
        device,
        indices=indices,
        shuffle=torch.Generator().manual_seed(_mix(seed, epoch)),
        crop_padding=config.crop_padding,
        flip=config.flip,
    )
    sums: dict[str, Tensor] = {}
    seen, factor = 0, 0.0
    for index, (images, labels) in enumerate(batches, start=epoch * steps):
        factor = schedule(index, total_steps, config.warmup_epochs * steps)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * group["lr_scale"] * factor
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16 and fast_bf16(device)):
            with torch.no_grad():
                teacher_logits = teacher(images) if teacher is not None else None
            logits, aux = model.forward_aux(images)
        logits = logits.float()
        losses = {"cross_entropy": F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)}
        step = Step(model, images, labels, logits, aux, teacher_logits, index / total_steps)
        for term in terms:
            losses.update(term(step))
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        average.update_parameters(model)
        losses["loss"], losses["train_top1"] = loss, (logits.argmax(1) == labels).float().mean()
        for name, value in losses.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + value.detach()
        seen += len(labels)
        advance(f"epoch {epoch + 1}/{config.epochs}")
    means = {name: value.item() / steps for name, value in sums.items()}
    seconds = time.perf_counter() - started
    if not math.isfinite(means["loss"]):
        raise FloatingPointError(f"the loss became {means['loss']} in epoch {epoch + 1}; lower lr in [train]")
    return {"epoch": epoch + 1, **means, "lr": config.lr * factor, "images_per_s": seen / seconds, "seconds": seconds}


@torch.inference_mode()
def top1(model: nn.Module, data: Data, indices: Tensor, device: torch.device) -> float:
    """Share of the given training images that `model` gets right."""
    model.eval()
    right = 0
    for images, labels in data.batches(data.train, 512, device, indices=indices):
        right += int((model(images).argmax(1) == labels).sum())
    return right / len(indices)


def _hold_out(split: Split, fraction: float) -> tuple[Tensor, Tensor]:
    """Indices to train on and to validate with; the same for every seed, so that variants share them."""
    order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(0))
    held = round(len(order) * fraction)
    return order[held:].sort().values, order[:held].sort().values


def _mix(seed: int, epoch: int) -> int:
    return seed * 1_000_003 + epoch


class _progress:
    """A rich progress bar on a terminal, silence elsewhere; as a context it gives `advance(text)`."""

    def __init__(self, title: str, total: int, done: int):
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
        self.bar = Progress(*columns, TimeRemainingColumn(), transient=True)
        self.bar.disable = not self.bar.console.is_terminal
        self.task = self.bar.add_task(title, total=total, completed=done, text="")

    def __enter__(self) -> Callable[[str], None]:
        self.bar.start()
        return lambda text: self.bar.update(self.task, advance=1, text=text)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
