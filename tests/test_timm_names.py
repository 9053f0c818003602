"""`timm:NAME` wherever a checkpoint goes: weights of this machine, or random ones and a warning, never a fetch."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import compress
from baselines.errors import InputError
from compress import loading
from compress.checkpoints import checkpoint
from compress.cli import main
from compress.importers import Hints, timm_registry

VIT, CNN = "timm:test_vit", "timm:test_resnet"  # which timm keeps for tests: small, 160 x 160 pixels
RANDOM = "its weights are not on this machine, and random ones stand in"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of Hugging Face, and no way out of this machine."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("something is fetched")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def make_model(name: str) -> torch.nn.Module:
    torch.manual_seed(7)
    return timm.create_model(name.removeprefix("timm:")).eval()


def cache_weights(hub: Path, model: Any) -> Path:
    """As `timm.create_model(..., pretrained=True)` leaves them."""
    repository = hub / f"models--{model.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
    path = repository / "snapshots" / "0123" / "model.safetensors"
    for each in (path, repository / "refs" / "main"):
        each.parent.mkdir(parents=True)
    save_file(model.state_dict(), path)
    (repository / "refs" / "main").write_text("0123")
    return path


def list_images(root: Path) -> list[str]:
    """Two classes of eight images."""
    chance = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for index in range(8):
            Image.fromarray(chance.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(root / name / f"{index}.png")
    return sorted(map(str, root.glob("*/*.png")))


@pytest.mark.parametrize("name", [VIT, CNN])
def test_weights_of_the_cache_answer_as_in_timm_and_see_images_alike(hub: Path, name: str) -> None:
    theirs: Any = make_model(name)
    path = cache_weights(hub, theirs)
    ours, _, content = loading.restore(Path(name))
    images = torch.randn(2, 3, *content.config.image_size)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-4, rtol=1e-4)
    said = theirs.pretrained_cfg
    assert (content.mean, content.std) == (said["mean"], said["std"])
    assert content.resizing is not None
    assert content.resizing.interpolation == said["interpolation"]
    assert content.choice == ""
    assert f"weights of {path}" in (content.origin or {})["notes"]
    assert checkpoint.load(Path(name), Hints(resize="stretch")).resizing != content.resizing


def test_random_weights_are_the_same_every_time_and_say_so_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    states = [checkpoint.hash_state(checkpoint.load(Path(VIT)).state) for _ in range(2)]
    assert states[0] == states[1]
    list_images(tmp_path / "photos")
    args = ["--data", "photos", "--mode", "static", "--runtime", "onnxruntime", "--threads", "1", "--seconds", "0.1"]
    main(["quantize", VIT, *args])
    told = capfd.readouterr()
    assert told.err == ""
    assert told.out.count(RANDOM) == 1
    assert "create_model('test_vit', pretrained=True)" in told.out
    assert "hardly better than chance" not in told.out  # which would be no news
    assert (tmp_path / "test_vit.int8.onnx").is_file()
    assert (tmp_path / "test_vit-quantize" / "rows.jsonl").is_file()


def test_other_architectures_come_as_code_of_timm(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    image, *_ = list_images(tmp_path / "photos")
    assert main(["predict", CNN, image, "--threads", "1"]) == 0  # in a process of its own
    assert capfd.readouterr().out.count(RANDOM) == 1
    assert main(["inspect", CNN]) == 0
    assert f"compress quantize {CNN} --data folder:PATH\n" in capfd.readouterr().out


def test_from_python(hub: Path) -> None:
    theirs = make_model(VIT)
    with pytest.warns(UserWarning, match=RANDOM), compress.load(VIT, threads=1) as artifact:
        assert len(artifact.classes) == 1000
    cache_weights(hub, theirs)
    with compress.load(VIT, threads=1) as artifact, torch.inference_mode():
        images = torch.randn(2, 3, *artifact.image_size)
        np.testing.assert_allclose(artifact(images), theirs(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:test_vitt", r"timm knows no model 'test_vitt'; did you mean timm:test_vit"),
        ("timm:test_vit.none", r"timm has no weights 'test_vit.none'; it has test_vit.r160_in1k"),
        ("timm:", r"timm knows no model ''"),
        ("timm:hf-hub:somebody/model", r"timm knows no model"),
    ],
)
def test_names_that_timm_does_not_know(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        checkpoint.load(Path(name))


def test_without_timm_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="needs the package timm; install it with: pip install timm"):
        checkpoint.load(Path(VIT))


def test_a_file_of_that_name_is_a_file(tmp_path: Path) -> None:
    (tmp_path / VIT).write_bytes(b"")
    assert timm_registry.find_name(VIT) is None
    with pytest.raises(InputError, match="is empty"):
        checkpoint.load(Path(VIT))
