"""Structural pruning from the command line and from Python: one file that every verb takes."""

from pathlib import Path

import pytest
import torch

import compress
from baselines.macs import dense_macs
from baselines.sources import load
from baselines.vit import VisionTransformer, ViTConfig
from compress import loading
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import Checkpoint
from compress.cli import main
from compress.methods.slim import count_weights
from reports import parse_rows

FINETUNE = "[finetune]\nbatch_size = 64\nlr = 2e-3\nwarmup_epochs = 0.2\nema = 0.9\n"
FEW = ["--threads", "1", "--device", "cpu", "--seconds", "0.1"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint of random weights in half precision, for digits."""
    torch.manual_seed(0)
    vit = VisionTransformer(
        ViTConfig(image_size=(8, 8), channels=1, patch_size=2, dim=32, depth=2, heads=2, mlp_dim=64)
    )
    data = load("digits", (8, 8), 1, tmp_path)
    state = {name: value.half() for name, value in vit.state_dict().items()}
    path = tmp_path / "model.pth"
    checkpoint.save(path, Checkpoint(vit.config, (), state, "digits", data.classes, data.mean, data.std))
    return path


def test_a_smaller_file_that_every_verb_takes(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", str(model), "--method", "slim", "--keep", "0.7", *FEW]) == 0
    target = model.with_name("model.slim.pth")
    printed = capfd.readouterr().out
    assert "found: sizes = " in printed
    assert printed.splitlines()[-1].startswith(f"wrote {target}")
    dense, small = (loading.restore_vit(path) for path in (model, target))
    assert count_weights(small[0].config) <= 0.7 * count_weights(dense[0].config)
    assert small[1].name == "slim"
    assert {value.dtype for value in small[2].state.values()} == {torch.float16}
    assert target.stat().st_size < model.stat().st_size
    before, after = parse_rows((model.with_name("model-prune") / "rows.jsonl").read_text(), "rows")
    assert (before.variant, after.variant) == ("vit", "slim")
    assert after.macs_per_image == dense_macs(small[0].config)
    assert main(["prune", str(target), "--method", "slim", *FEW]) == 2
    assert "is already 'slim'; give the checkpoint that slim began with" in capfd.readouterr().err
    assert main(["prune", str(target), "--method", "tome", "--r", "2", *FEW]) == 0
    assert loading.restore_vit(target.with_name("model.slim.tome.pth"))[1].name == "slim_tome"
    assert main(["export", str(target)]) == 0
    assert target.with_suffix(".onnx").exists()


def test_it_recovers_with_the_dense_model_as_teacher(model: Path, tmp_path: Path) -> None:
    config = tmp_path / "few.toml"
    config.write_text(FINETUNE)
    args = ["--method", "slim", "--target-macs", "0.7", "--epochs", "1", "--config", str(config), *FEW]
    assert main(["prune", str(model), *args]) == 0
    small = loading.restore_vit(model.with_name("model.slim.pth"))[0]
    assert dense_macs(small.config) <= 0.7 * dense_macs(loading.restore_vit(model)[0].config)
    assert (next(model.parent.glob("model-prune/models/slim-*")) / "training.jsonl").exists()


def test_a_bench_holds_it_beside_its_integers(model: Path, tmp_path: Path) -> None:
    args = ["--checkpoint", str(model), "--variants", "vit,slim,slim_int8", "--runtime", "onnxruntime", "--no-plain"]
    assert main(["bench", *args, *FEW, "--out", str(tmp_path / "run")]) == 0
    rows = parse_rows((tmp_path / "run" / "rows.jsonl").read_text(), "rows")
    found = {row.variant: row.macs_per_image or 0 for row in rows}
    assert found["slim"] == found["slim_int8"] < found["vit"]


def test_from_python(model: Path, tmp_path: Path) -> None:
    result = compress.prune(model, method="slim", keep=0.8, out=tmp_path / "out", threads=1, verbose=False)
    assert result.path is not None
    assert loading.restore_vit(result.path)[1].name == "slim"
