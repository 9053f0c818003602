"""Masked image modelling: what is hidden, what counts, and what is left when it is over."""

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines import pretrain
from baselines.augment import Dice
from baselines.data import Data, TensorSplit
from baselines.errors import InputError
from baselines.pretrain import PretrainConfig, Pretrainer, hide
from baselines.sources import load
from baselines.train import fit
from baselines.vit import VisionTransformer, ViTConfig
from compress import config, loading
from compress.checkpoints import checkpoint
from compress.cli import main

CPU = torch.device("cpu")
TINY: dict[str, Any] = {"image_size": 8, "channels": 1, "patch_size": 2, "dim": 16, "depth": 2, "heads": 2}
TINY |= {"mlp_dim": 32, "classes": 10, "dropout": 0.1, "drop_path": 0.1}
SETTINGS = PretrainConfig(
    epochs=3, batch_size=64, lr=4e-3, warmup_epochs=0.5, ema=0.9, crop_padding=1, flip=False, precision="fp32"
)


def make_model(**changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(ViTConfig(**{**TINY, **changes}))


def digits(n: int = 256) -> Data:
    data = load("digits", (8, 8), 1)
    split = TensorSplit(data.train.images[:n], data.train.labels[:n])  # pyright: ignore[reportAttributeAccessIssue]
    return Data("some digits", data.classes, split, split, data.mean, data.std)


def dice(images: int, seed: int = 0) -> Dice:
    return Dice(torch.Generator().manual_seed(seed), images, slice(None))


# --- what is hidden


@pytest.mark.parametrize(("ratio", "size", "hidden"), [(0.6, 1, 14), (0.5, 2, 12), (0.01, 1, 1), (0.99, 1, 24)])
def test_every_image_hides_as_many_patches(ratio: float, size: int, hidden: int) -> None:
    masks = pretrain.draw_masks((4, 6), ratio, size, dice(50))
    assert masks.flatten(1).sum(1).tolist() == [hidden] * 50
    squares = masks.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3).flatten(3)
    assert torch.equal(squares.all(-1), squares.any(-1))
    assert size == 2 or hidden in (1, 24) or len({mask.numpy().tobytes() for mask in masks}) > 40


@pytest.mark.parametrize("tokenizer", ["linear", "conv", "cct"])
def test_the_encoder_sees_nothing_of_what_is_hidden(tokenizer: str) -> None:
    model = make_model(tokenizer=tokenizer).eval()
    model.patch_embed = pretrain.MaskedTokenizer(model.patch_embed, model.config)
    masked = pretrain.draw_masks((4, 4), 0.6, 1, dice(5))
    images = torch.randn(5, 1, 8, 8)
    pixels = hide(images, masked).isnan()
    hidden_changed, seen_changed = (torch.where(where, images + 3, images) for where in (pixels, ~pixels))
    tokens = model.embed(hide(images, masked))
    assert pixels.float().mean() == pytest.approx(10 / 16)
    assert torch.equal(tokens, model.embed(hide(hidden_changed, masked)))
    assert not torch.equal(tokens, model.embed(hide(seen_changed, masked)))
    expected = model.patch_embed.mask_token + model.pos_embed[0, 1:]
    for token, where, own in zip(tokens[:, 1:].flatten(0, 1), masked.flatten(), expected.repeat(5, 1), strict=True):
        assert torch.equal(token, own) == bool(where)


# --- what counts


def test_the_loss_counts_hidden_patches_only() -> None:
    """Two images of 1 x 2 patches of 2 x 2 pixels; the second patch of the first and the first of the second count."""
    images = torch.arange(16.0).view(2, 1, 2, 4)
    target = pretrain.patches(images, 2)
    assert target[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    predicted = target.clone()
    predicted[0, 0] += 100  # seen
    predicted[0, 1] += torch.tensor([0.0, 1, -2, 5])  # hidden: 8 / 4
    masked = torch.tensor([[[False, True]], [[True, False]]])
    assert pretrain.distance(predicted, target, masked).tolist() == [2, 0]
    both = torch.ones(2, 1, 2, dtype=torch.bool)
    assert pretrain.distance(predicted, target, both).tolist() == [51, 0]


def test_standardised_patches() -> None:
    target = pretrain.standardised(pretrain.patches(torch.randn(3, 3, 8, 8) * 5 + 2, 4))
    assert target.shape == (3, 4, 48)
    assert target.mean(-1).abs().max() < 1e-5
    assert target.var(-1) == pytest.approx(1, abs=1e-4)


# --- the training


class Kept:
    """A snapshot in memory that stops the training after an epoch, as a kill would."""

    def __init__(self) -> None:
        self.state: dict[str, Any] | None = None

    def load(self) -> dict[str, Any] | None:
        return copy.deepcopy(self.state)

    def save(self, state: dict[str, Any]) -> None:
        first, self.state = self.state is None, copy.deepcopy(state)
        if first:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("tokenizer", "changes"),
    [("linear", {"pool": "cls"}), ("conv", {"pool": "cls", "distill_token": True}), ("cct", {"pool": "seq"})],
)
def test_it_learns_resumes_to_the_same_bits_and_leaves_a_plain_model(tokenizer: str, changes: dict[str, Any]) -> None:
    settings = SETTINGS.model_copy(update={"validation": 0.25, "mask_size": 2})
    whole, resumed, kept, data = *(make_model(tokenizer=tokenizer, **changes) for _ in range(2)), Kept(), digits()
    plain, head = whole.state_dict().keys(), whole.head.weight.detach().clone()
    history = fit(whole, data, settings, device=CPU, seed=3, trainer=Pretrainer)
    for before, after in itertools.pairwise(history):
        assert after["reconstruction"] < before["reconstruction"]
        assert after["validation_reconstruction"] < before["validation_reconstruction"]
    assert history[0]["loss"] == history[0]["reconstruction"]
    assert not {"train_top1", "cross_entropy", "validation_top1"} & history[0].keys()

    with pytest.raises(KeyboardInterrupt):
        fit(resumed, data, settings, device=CPU, seed=3, trainer=Pretrainer, snapshot=kept)
    resumed = make_model(tokenizer=tokenizer, **changes)
    fit(resumed, data, settings, device=CPU, seed=3, trainer=Pretrainer, snapshot=kept)
    assert whole.state_dict().keys() == resumed.state_dict().keys() == plain
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert torch.equal(whole.head.weight, head)
    assert not whole.training
    assert all(parameter.requires_grad for parameter in whole.parameters())


def test_all_but_the_head_learns() -> None:
    model = make_model(tokenizer="cct", pool="seq")
    trainer = Pretrainer(model, digits(64), SETTINGS, CPU, 0)
    losses, _ = trainer.losses(next(trainer.feed.epoch(0)))
    losses["reconstruction"].backward()
    still = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is None}
    assert still == {"sequence_pool", "head"}


def test_masks_follow_from_seed_and_step_alone() -> None:
    drawn: list[torch.Tensor] = []

    class Spy(Pretrainer):
        def _draw(self, dice: Dice) -> torch.Tensor:
            drawn.append(super()._draw(dice))
            return drawn[-1]

    for seed in (0, 0, 1):
        fit(make_model(), digits(128), SETTINGS.model_copy(update={"steps": 2}), device=CPU, seed=seed, trainer=Spy)
    first, second, again, _, other, _ = drawn
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "key", ["mixup = 0.8", "cutmix = 1.0", "freeze = true", "head_lr = 10.0", "class_weights = true"]
)
def test_settings_that_mean_nothing_without_labels_are_refused(key: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text(f"[pretrain]\n{key}\n")
    with pytest.raises(InputError, match=rf"{key.split()[0]} .*no place in pretraining; remove it$"):
        config.read(tmp_path / "wrong.toml")


@pytest.mark.parametrize(
    ("changes", "geometry", "says"),
    [
        ({"mask_size": 3}, {}, "mask_size 3 does not divide the 4x4 patches"),
        ({"normalize": True}, {"patch_size": 1}, "nothing of a patch of one pixel"),
    ],
)
def test_patches_that_cannot_be_hidden(changes: dict[str, Any], geometry: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        fit(
            make_model(**geometry),
            digits(64),
            SETTINGS.model_copy(update=changes),
            device=CPU,
            seed=0,
            trainer=Pretrainer,
        )


# --- the command line

CONFIG = """\
[model]
patch_size = 2
dim = 16
depth = 2
heads = 2
mlp_dim = 32
[pretrain]
epochs = 9
batch_size = 128
validation = 0.1
[train]
epochs = 2
batch_size = 128
warmup_epochs = 0.5
"""


def test_from_images_without_labels_to_a_classifier(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "tiny.toml", tmp_path / "runs"
    path.write_text(CONFIG)
    common = ["--device", "cpu", "--threads", "1", "--out", str(out)]
    command = ["pretrain", "--config", str(path), "--data", "digits", "--epochs", "1", *common]
    assert main(command) == 0
    said, error = capfd.readouterr()
    assert error == ""
    assert "pretraining vit on digits: 1 epochs" in said
    pretrained = out / "pretrained_vit_model.pth"
    content = checkpoint.load(pretrained)
    assert content.pretrained
    assert content.state.keys() == VisionTransformer(content.config).state_dict().keys()
    (record,) = out.glob("models/pretrained_vit-*/training.jsonl")
    assert "validation_reconstruction" in record.read_text()
    assert not [*out.rglob("state.pt"), *out.rglob("best_*")]

    assert main(command) == 0
    assert "training" not in capfd.readouterr().out.replace(str(out), "")  # it stands already

    assert main(["train", "--init", str(pretrained), "--config", str(path), *common]) == 0
    model, _, trained = loading.restore(out / "best_vit_model.pth")
    assert not trained.pretrained
    assert model.config.patch_size == 2
    assert len(list(out.glob("models/vit-*/best_vit_model.pth"))) == 1

    for wrong in (["bench", "--checkpoint"], ["quantize"], ["export"]):
        assert main([*wrong, str(pretrained)]) == 2
        said = capfd.readouterr().err
        assert f"knows no classes yet; train it with: compress train --init {pretrained}" in said.replace("\n", " ")
