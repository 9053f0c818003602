"""Models of the user's code: trained from their own weights, and as teachers of Vision Transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT

from baselines.data import Data, TensorSplit
from compress import loading
from compress.checkpoints import checkpoint, named_code, user_models
from compress.checkpoints.checkpoint import StateFile
from compress.cli import main
from compress.importers import Hints
from compress.training import teacher

NET = """\
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
"""
TRAIN = (
    '[train]\nepochs = 3\nbatch_size = 64\nema = 0.5\noptimizer = "sgd"\nlr = 0.2\nwarmup_epochs = 0\nflip = false\n'
)
STUDENT = TRAIN + "[model]\nimage_size = 8\npatch_size = 4\ndim = 16\ndepth = 1\nheads = 2\nmlp_dim = 16\n"
NAME = "best_net_model.pth"


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path / 'net.py'}:net"


@pytest.fixture
def train(tmp_path: Path, code: str) -> Callable[..., int]:
    (tmp_path / "train.toml").write_text(TRAIN)
    given = ["--model", code, "--image-size", "8", "--config", str(tmp_path / "train.toml"), "--threads", "1"]
    return lambda out, *further: main(["train", *given, "--out", str(tmp_path / out), *further])


def test_it_is_trained_goes_on_and_is_an_ordinary_checkpoint(
    train: Callable[..., int], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = StateFile.save

    def interrupted(self: StateFile, state: dict[str, Any]) -> None:
        save(self, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StateFile, "save", interrupted)
        assert train("out") == 130
    assert not (tmp_path / "out" / NAME).exists()
    assert train("out") == train("whole") == 0
    assert (tmp_path / "out" / NAME).read_bytes() == (tmp_path / "whole" / NAME).read_bytes()
    (record,) = (tmp_path / "out").glob("models/net-*/training.jsonl")
    assert json.loads(record.read_text().splitlines()[-1])["train_top1"] > 0.5
    _, which, content = loading.restore(tmp_path / "out" / NAME, Hints(model=code))
    assert (which.name, content.dataset, len(content.classes)) == ("net", "digits", 10)
    start = user_models.load_module(code).state_dict()
    assert not any(torch.equal(value, start[name.removeprefix("module.")]) for name, value in content.state.items())
    assert train("out", "--variant", "net_int8") == 0
    assert list((tmp_path / "out").glob("models/net_int8-*"))


def test_what_cannot_be_is_refused(
    train: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train("out", "--init", "some.pth") == 2
    assert "both set the initial model" in capfd.readouterr().err
    assert train("out", "--variant", "topk") == 2
    assert "is another architecture" in " ".join(capfd.readouterr().err.split())


def test_a_vision_transformer_learns_from_it(
    train: Callable[..., int],
    code: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert train("out") == 0
    monkeypatch.setenv(named_code.VARIABLE, "elsewhere.py:net")  # named by a program that runs commands, not by them
    student = tmp_path / "student.toml"
    args = ["distill", str(tmp_path / "out" / NAME), "--student", str(student), "--threads", "1"]
    args += ["--out", str(tmp_path / "student")]
    student.write_text(STUDENT)
    assert main(args) == 2
    assert "runs only where you name it" in " ".join(capfd.readouterr().err.split())
    assert main([*args, "--model", code]) == 0
    (record,) = (tmp_path / "student").glob("models/vit_distill-*/training.jsonl")
    assert json.loads(record.read_text().splitlines()[0])["distill"] > 0
    assert loading.restore(tmp_path / "student/best_vit_distill_model.pth")[1].name == "vit"  # needs no code
    student.write_text(STUDENT + "[methods.distill]\nrelation = 1.0\n")
    assert main([*args, "--model", code]) == 2
    assert "the teacher has none" in " ".join(capfd.readouterr().err.split())


def test_the_teacher_sees_images_as_it_knows_them(
    train: Callable[..., int], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("out") == 0
    monkeypatch.setattr(named_code, "_spec", code)  # as inside a command that names it
    path = tmp_path / "out" / NAME
    content, split = checkpoint.load(path), TensorSplit(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1))
    data = Data("made", content.classes, split, split, (0.5,), (0.1,))
    pixels = torch.rand(2, 1, 16, 16)
    small = F.interpolate(pixels, (8, 8), mode="bilinear", antialias=True)
    plain = loading.restore(path)[0]((small - content.mean[0]) / content.std[0])
    assert torch.allclose(teacher.read(path, data)[0].eval()((pixels - 0.5) / 0.1), plain, atol=1e-4)


def test_the_convolutional_teacher_starts_from_white_patches() -> None:
    net = user_models.load_module(f"{ROOT}/configs/baselines/teacher_cnn.py:teacher_cnn")
    assert sum(each.numel() for each in net.parameters()) == 1_972_768
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)
