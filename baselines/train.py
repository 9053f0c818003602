"""The training loop of this project: baselines, fine-tuning and distillation all run through `fit`.

What is learned beside the labels comes from outside, as loss terms and a teacher. Randomness is seeded by (seed, step):
a run that was killed goes on to the weights it would have had. All processes hold equal weights; the first speaks.
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from baselines.data import Data
from baselines.device import autocast_type
from baselines.distributed import ALONE, World
from baselines.feed import Batch, Feed, seed_of
from baselines.losses import Classification
from baselines.optimizer import freeze_statistics, make_optimizer, schedule
from baselines.parallel import Losses, OutputNetwork, even_out, join_batch_norms, part_batch_norms, shared
from baselines.progress import progress_bar
from baselines.recipe import TrainConfig
from baselines.step import LossTerm, Probe, Snapshot, Step
from baselines.validation import hold_out, probed, score_held_out
from baselines.vit import VisionTransformer

__all__ = ["Probe", "Snapshot", "Step", "TrainConfig", "Trainer", "fit"]

FAR = 500_009  # between the random numbers of two processes, in steps
SNAPSHOT_S = 120.0  # between snapshots inside an epoch; another is taken at its end
PARTS = ("model", "average", "optimizer", "scaler")  # of the state, those that have a state of their own
FACTS = ("step", "history", "before", "best", "sums", "spent")


def fit(
    model: VisionTransformer,
    data: Data,
    config: TrainConfig,
    *,
    device: torch.device,
    seed: int,
    title: str = "train",
    terms: Sequence[LossTerm] = (),
    teacher: VisionTransformer | None = None,
    lr_scale: Mapping[str, float] | None = None,
    snapshot: Snapshot | None = None,
    log: Callable[[dict[str, float]], None] | None = None,
    world: World = ALONE,
    trainer: Callable[..., "Trainer"] | None = None,
    probe: Probe | None = None,
    ready: Callable[[Any], nn.Module] | None = None,
) -> list[dict[str, float]]:
    """Trains `model` in place and leaves it in evaluation mode, holding the averaged weights of the chosen epoch.

    Args:
        terms: further losses, already weighted, by name; they are added to the cross entropy.
        teacher: its logits and by-products reach the terms; it is not trained.
        lr_scale: factors on the learning rate, by prefix of the parameter name.
        snapshot: where the state goes, and comes from when a run goes on.
        log: is told the record of each epoch when it ends.
        world: the processes that share the work; all of them call this.
        trainer: what is learned, and from what, where it is not labels.
        probe: looks at the averaged model, a copy, before the first step and after each epoch. All processes call it.
        ready: makes a copy of the model what is used. So it is validated, from the start on, which can be what is kept.

    Returns:
        One record an epoch: `loss`, its terms, `train_top1`, `validation_top1`, `validation_recall`, `lr`,
        `images_per_s`, `seconds`, and what `probe` says; in the first also what it said at the start, as `before_*`.
    """
    run = (trainer or Trainer)(model, data, config, device, seed, terms, teacher, lr_scale or {}, world)
    run.ready = ready
    if snapshot is not None and (state := world.share(snapshot.load)) is not None:
        run.load_state(state)
    if world.rank:
        snapshot = log = None
    total = run.total_steps
    if run.step == 0 < total:
        seen = {**probed(probe, run.average.module), **(run.validate() if ready else {})}
        run.before = {f"before_{name}": value for name, value in seen.items()}
    with contextlib.nullcontext(lambda _: None) if world.rank else progress_bar(title, total, run.step) as advance:
        while run.step < total:
            record = run.epoch(advance, snapshot)
            record |= {**probed(probe, run.average.module), **(run.before if len(run.history) == 1 else {})}
            if log is not None:
                log(record)
            if snapshot is not None:
                snapshot.save(run.state())
    run.finish()
    return run.history


class Trainer:
    """The state of one training, and how it moves; arguments are those of `fit`."""

    def __init__(
        self,
        model: VisionTransformer,
        data: Data,
        config: TrainConfig,
        device: torch.device,
        seed: int,
        terms: Sequence[LossTerm] = (),
        teacher: VisionTransformer | None = None,
        lr_scale: Mapping[str, float] | None = None,
        world: World = ALONE,
    ):
        self.config, self.device, self.seed, self.world = config, device, seed, world
        self.data, self.terms, self.teacher = data, terms, teacher
        self.train_indices, self.validation_indices = hold_out(data.train, config.validation)
        self.feed = Feed(data, self.train_indices, config, device, seed, world)
        self.total_steps = config.steps or config.epochs * self.feed.steps
        self.model = model.to(device)
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.optimizer = make_optimizer(model, config, lr_scale or {})
        seen = data.train.labels[self.train_indices].bincount(minlength=len(data.classes))
        self.loss = Classification(config, seen, device)
        self.number_type = autocast_type(config.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.number_type is torch.float16)
        network = self.network()
        self.forward = torch.compile(network) if config.compile else network
        self.compute = self.losses
        if world.size > 1:
            join_batch_norms(model)
            self.compute = shared(network, self.losses)  # also gives all the weights of process 0
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.before: dict[str, float] = {}  # for the first record: what was seen before the first step
        self.ready: Callable[[Any], nn.Module] | None = None
        self.best: dict[str, Any] = {"score": -1.0, "weights": None}
        self.sums: dict[str, Tensor] = {}  # of the running epoch
        self.spent = [0.0, 0.0]  # images and seconds of the running epoch

    def network(self) -> nn.Module:
        """The module that computes what `losses` looks at."""
        return OutputNetwork(self.model)

    def epoch(self, advance: Callable[[str], None], snapshot: Snapshot | None = None) -> dict[str, float]:
        """Trains to the end of the running epoch.

        Returns:
            Its record, which is also added to `history`.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        number, done = divmod(self.step, self.feed.steps)
        end = min((number + 1) * self.feed.steps, self.total_steps)
        torch.set_float32_matmul_precision(self.config.matmul)
        self.model.train()
        if self.config.freeze:
            freeze_statistics(self.model)
        saved = started = time.perf_counter()
        for batch in self.feed.epoch(number, done):
            self.advance(batch)
            advance(f"epoch {number + 1}/{-(-self.total_steps // self.feed.steps)}")
            started, before = time.perf_counter(), started
            self.spent = [self.spent[0] + len(batch.labels) * self.world.size, self.spent[1] + started - before]
            if self.step == end:
                break
            early = self.step == 1 and self.world.size > 1  # so that there is something when one of many is killed
            if snapshot is not None and (early or started - saved > SNAPSHOT_S):
                snapshot.save(self.state())
                saved = started
        means = {name: value.item() / (end - number * self.feed.steps) for name, value in self.sums.items()}
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(f"the loss became {means['loss']} in epoch {number + 1}; lower lr in [train]")
        images, seconds = self.spent[0], self.spent[1] + time.perf_counter() - started
        self.sums, self.spent = {}, [0.0, 0.0]
        record = {"epoch": number + 1, **means, "lr": self.config.lr * self.lr_factor(self.step - 1)}
        record |= {**self.validate(), "images_per_s": images / seconds, "seconds": seconds}
        self.history.append(record)
        return record

    def advance(self, batch: Batch) -> None:
        """One step: forward, backward, new weights."""
        torch.manual_seed(seed_of(self.seed, self.step) + FAR * self.world.rank)  # of dropout and stochastic depth
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * group["lr_scale"] * self.lr_factor(self.step)
        with torch.autocast(self.device.type, self.number_type, enabled=self.number_type is not torch.float32):
            losses, noted = self.compute(batch)
        loss = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        even_out(self.model, self.world)
        self.average.update_parameters(self.model)
        for name, value in self.world.mean({**losses, "loss": loss, **noted}).items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=self.device)) + value
        self.step += 1

    def losses(self, batch: Batch) -> Losses:
        """Weighted losses of a step by name, to be added up, and further figures to record; runs under autocast."""
        with torch.no_grad():
            taught = self.teacher.compute_output(batch.images) if self.teacher is not None else None
        output = self.forward(batch.images)
        with torch.autocast(self.device.type, enabled=False):
            logits = output.logits.float()
            losses = {"cross_entropy": self.loss(logits, batch)}
            done = self.step / self.total_steps
            step = Step(self.model, batch.images, batch.labels, logits, output, self.teacher, taught, done)
            for term in self.terms:
                losses.update(term(step))
        return losses, {"train_top1": (logits.argmax(1) == batch.labels).float().mean()}

    def lr_factor(self, step: int) -> float:
        warmup = self.config.warmup_steps or self.config.warmup_epochs * self.feed.steps
        return schedule(step, self.total_steps, warmup, self.config.schedule, self.config.final_lr)

    def validate(self) -> dict[str, float]:
        """Accuracy of the averaged weights on the images held out; keeps them if they are the best so far."""
        if not len(self.validation_indices):
            return {}
        model: nn.Module = self.ready(copy.deepcopy(self.average.module)) if self.ready else self.average.module
        with torch.autocast(self.device.type, self.number_type, enabled=self.number_type is not torch.float32):
            score, record = score_held_out(
                model, self.data, self.validation_indices, self.config, self.device, self.world
            )
        if score >= self.best["score"]:
            self.best = {"score": score, "weights": copy.deepcopy(self.average.module.state_dict())}
        return record

    def finish(self) -> None:
        """Leaves the chosen weights in the model."""
        if self.history:
            self.model.load_state_dict(self.best["weights"] or self.average.module.state_dict())
        part_batch_norms(self.model)
        self.model.requires_grad_(True)
        self.model.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
        self.model.eval()

    def state(self) -> dict[str, Any]:
        """All that decides how the training goes on."""
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        return parts | {name: getattr(self, name) for name in FACTS}

    def load_state(self, state: dict[str, Any]) -> None:
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        for name in FACTS:
            setattr(self, name, state[name])
        self.sums = {name: value.to(self.device) for name, value in self.sums.items()}
