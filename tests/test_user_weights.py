"""Weights for a model of the user's code, out of what trainings wrap around them and keep beside them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines.errors import InputError
from compress.checkpoints import checkpoint, named_code, user_models
from compress.importers import Hints

NET = """\
from torch import nn


def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
"""
BESIDE = {"criterion.weight": torch.ones(10), "train_acc.tp": torch.zeros(10)}


@pytest.fixture
def hints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(named_code, "_spec", None)
    (tmp_path / "nets.py").write_text(NET)
    return {"model": f"{tmp_path / 'nets.py'}:net", "image_size": (8, 8)}


def drawn(hints: dict[str, Any], factor: float = 1) -> dict[str, Tensor]:
    return {name: factor * value for name, value in user_models.load_module(hints["model"]).state_dict().items()}


def put(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def load(tree: Any, hints: dict[str, Any], tmp_path: Path, **more: Any) -> checkpoint.Checkpoint:
    torch.save(tree, tmp_path / "weights.pth")
    return checkpoint.load(tmp_path / "weights.pth", Hints(**hints, **more))


def is_same(found: checkpoint.Checkpoint, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(found.state[f"module.{name}"], value) for name, value in state.items())


def test_losses_and_metrics_beside_a_model_are_left_out_and_noted(hints: dict[str, Any], tmp_path: Path) -> None:
    state = drawn(hints)
    for prefix in ("model.", "", "module.net."):
        found = load({"state_dict": put(prefix, state) | BESIDE}, hints, tmp_path)
        assert is_same(found, state)
        assert found.origin
        assert found.origin["notes"] == ["left out, as no part of the model: criterion.weight, train_acc.tp"]
    for name in ("model.extra", "neck.weight"):  # one of its own, and one that its answers may need
        with pytest.raises(InputError, match=f"it also holds .*{name.removeprefix('model.')}"):
            load(put("model.", state) | {name: torch.ones(2)}, hints, tmp_path)


@pytest.mark.parametrize("kind", ["tables", "prefixes"])
def test_of_two_models_the_average_is_taken_and_an_option_chooses(
    kind: str, hints: dict[str, Any], tmp_path: Path
) -> None:
    last, average = drawn(hints), drawn(hints, 0.5)
    tree: Any = {"model": last, "model_ema": average, "epoch": 3}
    tree = {"state_dict": put("model.", last) | put("model_ema.", average)} if kind == "prefixes" else tree
    found = load(tree, hints, tmp_path)
    assert is_same(found, average)
    assert "weights of 'model_ema' out of model, model_ema" in found.choice
    assert is_same(load(tree, hints, tmp_path, weights="model"), last)
    assert is_same(load(tree, hints, tmp_path, ema=False), last)
    with pytest.raises(InputError, match="--weights other is no entry"):
        load(tree, hints, tmp_path, weights="other")
