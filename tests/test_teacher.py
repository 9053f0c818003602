"""Teachers of any kind for students of any kind, as the command line brings them together."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY

from baselines.data import Data, TensorSplit
from baselines.sources import load
from baselines.vit import VisionTransformer, ViTConfig
from compress import config, loading, variant
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import StateFile
from compress.cli import main
from compress.training import teacher
from compress.training.build import make_baseline
from compress.training.run import open_run

CPU = torch.device("cpu")
TRAINING = TINY[TINY.index("\n[train]") :]
STUDENT = '[model]\nimage_size = 16\npatch_size = 8\ndim = 24\ndepth = 1\nheads = 2\nmlp_dim = 32\npool = "mean"\n'
SETTINGS = TINY.replace("epochs = 8", "epochs = 4") + "\n[methods.distill]\nhint = 0.5\nrelation = 1.0\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which variants with distillation were trained on digits."""
    out = tmp_path_factory.mktemp("bench") / "run"
    (out.parent / "tiny.toml").write_text(SETTINGS)
    args = ["--config", str(out.parent / "tiny.toml"), "--device", "cpu", "--threads", "1", "--out", str(out)]
    for name in ("avit_distill_int8", "narrow_distill"):
        assert main(["train", *args, "--variant", name]) == 0
    return out


@pytest.fixture
def distill(tmp_path: Path) -> Callable[..., int]:
    """Runs `compress distill TEACHER ...`; the student has four patches of images of 16 pixels."""
    student = tmp_path / "student.toml"

    def start(source: Path, *args: str, out: str = "out", epochs: int = 2) -> int:
        student.write_text(STUDENT + TRAINING.replace("epochs = 8", f"epochs = {epochs}"))
        given = ["--student", str(student), "--threads", "1", "--out", str(tmp_path / out)]
        return main(["distill", str(source), *args, *given])

    return start


def checkpoint_of(out: Path, name: str) -> Path:
    return next(out.glob(f"models/{name}-*/best_{name}_model.pth"))


def weights(path: Path) -> int:
    return sum(parameter.numel() for parameter in loading.restore(path)[0].parameters())


def test_it_combines_with_geometry_tokens_and_int8(run: Path) -> None:
    data = load("digits", (8, 8), 1)
    images, labels = next(data.batches(data.test, 360, CPU))
    for name in ("vit", "avit_distill", "avit_distill_int8", "narrow_distill"):
        model, which, _ = loading.restore(checkpoint_of(run, name))
        with torch.inference_mode():
            top1 = (variant.convert(model, which.methods)(images).argmax(1) == labels).float().mean()
        assert top1 > 0.4, name
    assert weights(checkpoint_of(run, "avit_distill")) == weights(checkpoint_of(run, "vit")) + 32  # the gate
    narrow = checkpoint_of(run, "narrow_distill")
    shape = loading.restore(narrow)[2].config
    assert weights(narrow) == sum(parameter.numel() for parameter in VisionTransformer(shape).parameters())
    assert shape.dim < 32
    assert not list(run.glob("models/narrow-*"))
    for name, epochs in (("narrow_distill", 4), ("avit_distill", 2)):  # trained anew, and fine-tuned
        record = checkpoint_of(run, name).with_name("training.jsonl").read_text().splitlines()
        assert len(record) == epochs
        assert {"cross_entropy", "distill", "hint", "relation"} <= json.loads(record[0]).keys()


@pytest.mark.parametrize("name", ["vit", "avit_distill_int8"])
def test_a_student_of_another_geometry(
    name: str, run: Path, distill: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, out = checkpoint_of(run, name), tmp_path / "out"
    assert distill(source, "--kind", "hard") == 0
    assert f"teacher {source}: {name}" in capfd.readouterr().out
    student = out / "best_vit_distill_model.pth"
    (made,) = out.glob("models/vit_distill-*/best_vit_distill_model.pth")
    assert student.read_bytes() == made.read_bytes()
    assert json.loads(made.with_name("teacher.json").read_text())["kind"] == "hard"
    model, which, content = loading.restore(student)
    assert (which.methods, content.dataset, content.config.grid) == ((), "digits", (2, 2))
    assert model.state_dict().keys() == VisionTransformer(content.config).state_dict().keys()
    assert distill(source, "--kind", "hard") == 0
    assert "training" not in capfd.readouterr().out  # done already
    assert distill(source, "--temperature", "2") == 0
    assert "training" in capfd.readouterr().out
    baseline = make_baseline(
        open_run(config.read(None), tmp_path / "other", CPU, print, student)
    )  # as bench --checkpoint
    assert loading.restore(baseline.path)[2].config == content.config


def test_a_teacher_named_in_the_settings(run: Path, tmp_path: Path) -> None:
    """Another teacher under the same name means another training."""
    settings, out, source = tmp_path / "named.toml", tmp_path / "out", tmp_path / "teacher.pth"
    short = SETTINGS.replace("epochs = 4", "epochs = 1").replace("epochs = 2", "epochs = 1").replace("= 32", "= 16")
    settings.write_text(f"{short}teacher = {str(source)!r}\n")
    args = ["train", "--config", str(settings), "--variant", "distill", "--threads", "1", "--out", str(out)]
    source.write_bytes(checkpoint_of(run, "vit").read_bytes())
    assert main(args) == 0
    source.write_bytes(checkpoint_of(run, "narrow_distill").read_bytes())
    assert main(args) == 0
    assert len(list(out.glob("models/distill-*"))) == 2
    source.unlink()
    assert loading.restore(checkpoint_of(out, "distill"))[1].name == "distill"  # no teacher is needed to use it
    assert main(args) == 2


def test_a_student_that_was_stopped_goes_on(
    run: Path,
    distill: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    source, save, saved = checkpoint_of(run, "vit"), StateFile.save, []

    def interrupted(self: StateFile, state: dict[str, Any]) -> None:
        save(self, state)
        saved.append(state["step"])
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(StateFile, "save", interrupted)
    assert distill(source, epochs=3) == 130
    assert "stopped; run the same command again" in capfd.readouterr().err
    assert not (tmp_path / "out/best_vit_distill_model.pth").exists()
    assert distill(source, epochs=3) == 0
    assert saved == [22, 44, 66]
    assert distill(source, epochs=3, out="whole") == 0
    ends = [(tmp_path / each / "best_vit_distill_model.pth").read_bytes() for each in ("out", "whole")]
    assert ends[0] == ends[1]


def test_paths_are_relative_to_where_the_command_runs(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "student.toml").write_text(STUDENT + TRAINING.replace("epochs = 8", "epochs = 1"))
    args = ["distill", str(checkpoint_of(run, "vit")), "--student", "student.toml", "--device", "cpu", "--threads", "1"]
    assert main(args) == 0
    said, error = capfd.readouterr()
    assert error == ""
    assert said.splitlines()[-1].endswith("copied to runs/best_vit_distill_model.pth")
    assert (tmp_path / "runs/best_vit_distill_model.pth").exists()


def made_teacher(channels: int, size: int) -> tuple[VisionTransformer, Data]:
    torch.manual_seed(0)
    geometry = ViTConfig(image_size=(size, size), channels=channels, patch_size=2, dim=16, depth=2, heads=2, mlp_dim=24)
    images = torch.zeros(10, channels, size, size, dtype=torch.uint8)
    split = TensorSplit(images, torch.arange(10))
    names = tuple(str(i) for i in range(10))
    return VisionTransformer(geometry).eval(), Data("made", names, split, split, (0.2,) * channels, (0.1,) * channels)


@pytest.mark.parametrize("size", [8, 12])
def test_the_teacher_sees_what_the_student_sees(size: int, tmp_path: Path) -> None:
    (model, data), path = made_teacher(1, size), tmp_path / "teacher.pth"
    checkpoint.save(path, loading.pack(model, (), data, model.config))
    pixels = torch.rand(5, 1, 8, 8)
    expected = (F.interpolate(pixels, (size, size), mode="bilinear") - 0.2) / 0.1
    found = teacher.read(path, data.with_normalization((0.5,), (0.3,)))[0]((pixels - 0.5) / 0.3)
    torch.testing.assert_close(found, model(expected), atol=1e-4, rtol=1e-4)


def test_teachers_that_cannot_teach_are_refused(
    run: Path, distill: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, source = tmp_path / "out", checkpoint_of(run, "vit")
    foreign, colour = tmp_path / "foreign.pth", tmp_path / "colour.pth"
    checkpoint.save(foreign, replace(checkpoint.load(source), classes=tuple("abcdefghij")))
    model, data = made_teacher(3, 8)
    checkpoint.save(colour, loading.pack(model, (), data, model.config))
    for path, says in (
        (tmp_path / "none.pth", "there is no such file"),
        (foreign, "knows 10 classes (a, b, c, ...), digits has 10 (0, 1, 2, ...)"),
        (colour, "sees 3 channels, the student 1; set channels = 3"),
        (out / "best_vit_distill_model.pth", "give another --out"),
    ):
        assert distill(path) == 2
        said = capfd.readouterr().err
        assert says in said
        assert said.startswith(("error: teacher", f"error: {path}"))
    assert distill(source, "--kind", "loud") == 2
    assert "'kind' should be 'soft' or 'hard', not 'loud'" in capfd.readouterr().err
    assert not list(out.rglob("*.pth"))
