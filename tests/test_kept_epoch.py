"""Fine-tuning a model that was given keeps the best of all epochs, its start included, on training images held out."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from test_recovery import CPU, TRAIN, calibration, halves, make_model

from baselines.data import Data
from baselines.train import TrainConfig, fit
from baselines.validation import count_right, hold_out
from baselines.vit import VisionTransformer
from compress import config
from compress.checkpoints.checkpoint import Checkpoint
from compress.cli import main
from compress.methods import AViT, Method, TopK
from compress.training import finetuning
from compress.training.held_out import hold_out_again
from compress.variant import Variant

HELD_OUT = 0.25


def tune(
    start: VisionTransformer, method: Method, data: Data, **settings: Any
) -> tuple[VisionTransformer, list[dict[str, float]]]:
    training = TRAIN.model_copy(update={"precision": "fp32", **settings})
    given: dict[str, Any] = {"teacher": start, "training": training, "device": CPU, "seed": 1, "title": "test"}
    return finetuning.apply(start, [], [method], data, calibration=[calibration(data)], **given, start_competes=True)


def held_out(model: VisionTransformer, data: Data) -> float:
    right, seen = count_right(model, data, data.train, hold_out(data.train, HELD_OUT)[1], CPU)
    return (right.sum() / seen.sum()).item()


@pytest.fixture(scope="module")
def trained() -> VisionTransformer:
    model = make_model()
    fit(model, halves(), TRAIN.model_copy(update={"validation": 0.0, "epochs": 12}), device=CPU, seed=0)
    return model


@pytest.mark.parametrize("method", [TopK(keep=0.9), AViT(target_macs=0.9)], ids=lambda method: method.name)
def test_what_ruins_a_model_is_not_kept(method: Method, trained: VisionTransformer) -> None:
    data = halves()
    made, history = tune(trained, method, data, lr=30.0, clip_norm=float("inf"), warmup_epochs=0, ema=0.0)
    before = history[0]["before_validation_top1"]
    assert max(record["validation_top1"] for record in history) < before
    assert held_out(made, data) == pytest.approx(before)  # AViT: calibrated before, as it is after
    known = trained.state_dict()
    assert all(torch.equal(value, known[name]) for name, value in made.state_dict().items() if name in known)
    said = finetuning.describe_choice(history, 16)
    assert said.startswith(f"no epoch was better than the start ({before:.1%} of 16 training images held out")


def test_the_best_epoch_is_kept_and_said() -> None:
    data = halves()
    made, history = tune(make_model(), TopK(keep=0.9), data)
    best = max(record["validation_top1"] for record in history)
    assert best > history[0]["before_validation_top1"]
    assert held_out(made, data) == pytest.approx(best)
    last = max(index for index, record in enumerate(history, 1) if record["validation_top1"] == best)
    assert finetuning.describe_choice(history, 16).startswith(f"epoch {last} of 3 is kept: {best:.1%} of 16 training")


def test_how_many_images_choose() -> None:
    choose = finetuning.hold_out_for_choice
    assert choose(TrainConfig(), 999).validation == 0  # too few to spare any
    assert choose(TrainConfig(), 1437).validation == 0.1
    assert choose(TrainConfig(), 50_000).validation * 50_000 == pytest.approx(2000)
    assert choose(TrainConfig(validation=0.0), 50_000).validation == 0  # asked for
    assert choose(TrainConfig(validation=0.2), 50_000).validation == 0.2
    longer = config.override_training(config.read(None), "finetune", {"epochs": 7}).finetune  # as --epochs does
    assert (longer.epochs, choose(longer, 1437).validation) == (7, 0.1)


def test_what_a_training_held_out_chooses_again(tmp_path: Path) -> None:
    path, settings = tmp_path / "best_vit_model.pth", config.resolve({"data": "digits"}, "x")
    (tmp_path / "config.toml").write_text('data = "digits"\n[train]\nvalidation = 0.3\n')
    content = Checkpoint(make_model().config, (), {}, dataset="digits", classes=(), mean=(), std=())
    assert hold_out_again(settings, path, content, Variant(())).finetune.validation == 0.3
    others = dataclasses.replace(content, dataset="folder:x"), dataclasses.replace(content, origin={"family": "timm"})
    said = config.resolve({"data": "digits", "finetune": {"validation": 0.2}}, "x")
    unknown = [hold_out_again(settings, path, other, Variant(())) for other in others]
    assert [*unknown, hold_out_again(said, path, content, Variant(()))] == [settings, settings, said]


def test_the_settings_follow_the_model() -> None:
    small, large = (
        config.preset("folder:x", make_model().config.model_copy(update={"image_size": (size, size)}))
        for size in (32, 224)
    )
    assert small == config.preset("folder:x")
    assert large["finetune"]["lr"] < small["finetune"]["lr"]
    assert (large["train"]["layer_decay"], large["model"]) == (0.75, small["model"])
    known = make_model().config.model_copy(update={"image_size": (224, 224)})
    assert config.resolve({"data": "folder:x", "finetune": {"lr": 0.5}}, "x", None, known).finetune.lr == 0.5


def test_prune_says_which_epoch_it_kept(run: Run, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["prune", str(run.checkpoint()), "--keep", "0.7", "--epochs", "1", "--threads", "1", "--seconds", "0.1"]
    assert main([*args, "--out", str(tmp_path / "tuned.pth")]) == 0
    said = capsys.readouterr().out
    assert "of 144 training images held out" in said
    assert "topk: epoch 1 of 1 is kept" in said or "topk: no epoch was better than the start" in said
