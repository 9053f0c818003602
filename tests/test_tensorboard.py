"""What is noted of a training while it runs, read back by TensorBoard itself, and beginning anew."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import TINY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from compress.cli import main
from compress.training import curves
from compress.training.curves import Curves


def records(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each figure in all event files of a folder, as TensorBoard shows them."""
    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {
        tag.rpartition("/")[2]: [(event.step, event.value) for event in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def assert_the_same(folder: Path, history: list[dict[str, float]]) -> None:
    found = shown(folder)
    assert found.keys() == history[0].keys() - {"epoch"}
    for name, points in found.items():
        assert [step for step, _ in points] == [record["epoch"] for record in history]
        assert [value for _, value in points] == pytest.approx([record[name] for record in history], rel=1e-6)


def record(epoch: int, loss: float) -> dict[str, float]:
    return {"epoch": epoch, "loss": loss, "train_top1": 0.5, "images_per_s": 100.0, "seconds": 2.0}


def test_every_epoch_is_there_once_however_often_the_training_was_killed(tmp_path: Path) -> None:
    path, board = tmp_path / "training.jsonl", tmp_path / "board"
    said: list[str] = []
    for epochs in ((1, 2, 3), (3, 4), (5,)):  # the second process knew nothing of epoch 3, the first never closed
        process = Curves("vit", path, said.append, board)
        for epoch in epochs:
            process(record(epoch, loss=10.0 * epochs[0] + epoch))
            assert records(path)[-1]["epoch"] == epoch  # the file grows with the training
    losses = [11, 12, 33, 34, 55]
    assert records(path) == [record(i + 1, loss) for i, loss in enumerate(losses)]
    assert_the_same(board, records(path))
    reader = EventAccumulator(str(board))
    reader.Reload()
    times = [event.wall_time for event in reader.Scalars("training/loss")]
    assert [later - earlier for earlier, later in pairwise(times)] == pytest.approx([2] * 4)  # a pause does not show
    assert said == []


def test_a_training_that_begins_anew_forgets_the_old_curve(tmp_path: Path) -> None:
    path, board = tmp_path / "training.jsonl", tmp_path / "board"
    for loss, epochs in ((1.0, 3), (2.0, 2)):
        with Curves("vit", path, print, board) as process:
            for epoch in range(epochs):
                process(record(epoch + 1, loss))
    assert shown(board)["loss"] == [(1, 2), (2, 2)]


def test_without_the_package_the_option_is_refused(monkeypatch: pytest.MonkeyPatch, capfd, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    assert main(["train", "--tensorboard", "--out", str(tmp_path)]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: --tensorboard needs a package that is not installed")


def test_the_command_line_writes_resumes_and_begins_anew(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config, out = tmp_path / "tiny.toml", tmp_path / "run"
    config.write_text(TINY.replace("epochs = 8", "epochs = 3\nvalidation = 0.2"))
    args = ["train", "--config", str(config), "--device", "cpu", "--threads", "1", "--out", str(out)]

    assert main([*args, "--tensorboard"]) == 0
    (model,) = out.glob("models/vit-*/best_vit_model.pth")
    first = records(model.with_name("training.jsonl"))
    board = out / "tensorboard" / model.parent.name
    assert_the_same(board, first)
    assert {"validation_top1", "validation_recall", "cross_entropy", "lr"} <= shown(board).keys()
    assert "training vit" in capfd.readouterr().out
    assert main(args) == 0
    assert "training vit" not in capfd.readouterr().out

    state, artifact = model.with_name("state.pt"), model.with_name("vit.onnx")
    for left in (state, artifact):
        left.write_bytes(b"of an earlier training: reading it would fail")
    weights = torch.load(model, weights_only=True)["state"]
    assert main([*args, "--no-resume", "--tensorboard"]) == 0
    said, error = capfd.readouterr()
    assert error == ""
    assert "training vit" in said
    again = torch.load(model, weights_only=True)["state"]
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert not state.exists()
    assert not artifact.exists()
    second = records(model.with_name("training.jsonl"))
    assert len(second) == 3
    assert second != first  # its seconds are others
    assert_the_same(board, second)


def test_long_epochs_are_told(tmp_path: Path) -> None:
    said: list[str] = []
    long = {**record(7, loss=0.25), "seconds": curves.LONG_EPOCH_S, "validation_top1": 0.75}
    Curves("avit", tmp_path / "training.jsonl", said.append)(long)
    assert said == ["  avit: epoch 7, loss 0.250, train 50.0%, validation 75.0%, 100 images/s"]
