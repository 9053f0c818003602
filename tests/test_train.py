"""The training loop: exact resume, the schedule, losses and teacher from outside."""

import copy
from typing import Any

import pytest
import torch

from baselines import augment
from baselines.data import Data, TensorSplit
from baselines.optimizer import make_optimizer, schedule
from baselines.train import Step, TrainConfig, fit
from baselines.vit import VisionTransformer, ViTConfig

CPU = torch.device("cpu")
CONFIG = ViTConfig(
    image_size=8, channels=1, patch_size=4, dim=16, depth=2, heads=2, mlp_dim=24, classes=2, dropout=0.1, drop_path=0.2
)
TRAIN = TrainConfig(
    epochs=4, batch_size=8, lr=3e-3, warmup_epochs=1, ema=0.9, crop_padding=1, flip=False, validation=0.25
)


def two_classes(n: int = 64) -> Data:
    """Images whose left or right half is bright."""
    labels = torch.arange(n) % 2
    images = torch.randint(0, 60, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[labels == 0, :, :, :4] += 150
    images[labels == 1, :, :, 4:] += 150
    split = TensorSplit(images, labels)
    return Data("halves", ("left", "right"), split, split, (0.4,), (0.3,))


def make_model() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(CONFIG)


class Kept:
    """A snapshot in memory that stops the training after some epochs, as a kill would."""

    def __init__(self, stop_after: int | None = None):
        self.state: dict[str, Any] | None = None
        self.stop_after = stop_after

    def load(self) -> dict[str, Any] | None:
        return copy.deepcopy(self.state)

    def save(self, state: dict[str, Any]) -> None:
        self.state = copy.deepcopy(state)
        if len(state["history"]) == self.stop_after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("killed_after", [1, 3])
def test_a_resumed_training_ends_with_the_same_bits(killed_after: int) -> None:
    whole, resumed, kept = make_model(), make_model(), Kept(killed_after)
    history = fit(whole, two_classes(), TRAIN, device=CPU, seed=5)
    with pytest.raises(KeyboardInterrupt):
        fit(resumed, two_classes(), TRAIN, device=CPU, seed=5, snapshot=kept)
    kept.stop_after = None
    resumed = make_model()
    again = fit(resumed, two_classes(), TRAIN, device=CPU, seed=5, snapshot=kept)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    timing = {"seconds", "images_per_s"}
    strip = [[{k: v for k, v in entry.items() if k not in timing} for entry in h] for h in (history, again)]
    assert strip[0] == strip[1]


def test_it_learns() -> None:
    model = make_model()
    history = fit(model, two_classes(), TRAIN.model_copy(update={"epochs": 12, "lr": 1e-2}), device=CPU, seed=0)
    assert history[-1]["validation_top1"] == 1.0
    assert history[-1]["loss"] < history[0]["loss"]


def test_another_seed_gives_other_weights() -> None:
    models = [make_model() for _ in range(2)]
    for seed, model in enumerate(models):
        fit(model, two_classes(), TRAIN, device=CPU, seed=seed)
    assert not torch.equal(models[0].head.weight, models[1].head.weight)


def test_terms_and_teacher_come_from_outside() -> None:
    teacher, seen = make_model().eval(), []

    def follow(step: Step) -> dict[str, torch.Tensor]:
        assert step.teacher_output is not None
        seen.append(step.progress)
        return {"follow": (step.logits - step.teacher_output.logits).square().mean()}

    history = fit(make_model(), two_classes(), TRAIN, device=CPU, seed=0, terms=[follow], teacher=teacher)
    assert len(seen) == 4 * (48 // 8)
    assert seen == sorted(seen)
    assert seen[0] == 0
    for entry in history:
        assert entry["loss"] == pytest.approx(entry["cross_entropy"] + entry["follow"], rel=1e-5)


def test_no_epochs_leave_the_model_alone() -> None:
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    assert fit(model, two_classes(), TRAIN.model_copy(update={"epochs": 0}), device=CPU, seed=0) == []
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_schedule() -> None:
    assert [schedule(step, 100, 9) for step in (0, 4, 8)] == pytest.approx([0.1, 0.5, 0.9])
    assert schedule(9, 109, 9) == 1
    assert schedule(59, 109, 9) == pytest.approx(0.505)
    assert schedule(109, 109, 9) == pytest.approx(0.01)


def test_what_is_decayed_and_what_learns_faster() -> None:
    model = make_model()
    groups = make_optimizer(model, TRAIN, {"head": 7.0}).param_groups
    where = {id(p): (g["weight_decay"], g["lr_scale"]) for g in groups for p in g["params"]}
    assert len(where) == len(list(model.parameters()))
    assert where[id(model.head.weight)] == (0.05, 7.0)
    assert where[id(model.pos_embed)] == (0, 1)
    assert where[id(model.norm.weight)] == (0, 1)


def dice(images: int) -> augment.Dice:
    return augment.Dice(torch.Generator().manual_seed(0), images, slice(None))


def test_random_crop_moves_each_image_as_a_whole() -> None:
    images = torch.arange(1, 37, dtype=torch.uint8).view(1, 1, 6, 6).expand(50, 2, 6, 6)
    moved = augment.random_crop(images, 2, dice(50))
    padded = torch.nn.functional.pad(images[:1], (2,) * 4)
    windows = [padded[0, :, y : y + 6, x : x + 6] for y in range(5) for x in range(5)]
    assert all(any(torch.equal(image, window) for window in windows) for image in moved)
    assert len({image.numpy().tobytes() for image in moved}) > 10


def test_random_flip_mirrors_about_half() -> None:
    images = torch.arange(12, dtype=torch.uint8).view(1, 1, 3, 4).expand(200, 1, 3, 4)
    flipped = augment.random_flip(images, dice(200))
    mirrored = sum(torch.equal(image, images[0].flip(-1)) for image in flipped)
    assert all(torch.equal(image, images[0]) or torch.equal(image, images[0].flip(-1)) for image in flipped)
    assert 70 < mirrored < 130
