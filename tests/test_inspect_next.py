"""What `inspect` prints as the next step runs as it is printed, with a folder of images for PATH and one for IMAGE."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from baselines.vit import VisionTransformer, ViTConfig
from compress import cli
from compress.checkpoints import checkpoint, named_code, user_models
from compress.checkpoints.checkpoint import Checkpoint

transformers = pytest.importorskip("transformers")

NET = """\
from torch import nn


def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
"""
SHORT = {  # what keeps each verb short; all that comes before the work is done
    "quantize": ["--dry-run", "--threads", "1"],
    "bench": ["--dry-run", "--threads", "1"],
    "train": ["--epochs", "1", "--out", "trained", "--threads", "1"],
    "export": ["--out", "written.onnx"],
    "predict": ["--threads", "1"],
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with `images/`: ten classes of six scans."""
    scans = load_digits()
    for label in range(10):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        for number, scan in enumerate(scans.images[scans.target == label][:6]):
            picture = Image.fromarray((scan * 15.9).astype("uint8")).convert("RGB")
            picture.save(tmp_path / "images" / str(label) / f"{number}.png")
    (tmp_path / "nets.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(named_code, "_spec", None)
    return tmp_path


def build(**settings: object) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"num_classes": 10, "embed_dim": 32, "depth": 4, "num_heads": 4, "mlp_ratio": 2}
    model = timm.models.VisionTransformer(8, 2, **{**sizes, **settings})
    if settings.get("num_classes") != 0:
        nn.init.normal_(model.head.weight)
    return model


def save_huggingface(path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=8, patch_size=2,
        num_labels=10,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(path)


def save_two(path: Path) -> None:
    other = build(embed_dim=16, num_heads=2)
    torch.save({"student": build().state_dict(), "teacher": other.state_dict()}, path)


def save_ours(path: Path, *methods: dict[str, object]) -> None:
    config = ViTConfig(image_size=(8, 8), patch_size=2, dim=32, depth=4, heads=4, mlp_dim=64)
    names = tuple(map(str, range(10)))
    state = VisionTransformer(config).state_dict()
    known = {"dataset": "folder:images", "classes": names, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    checkpoint.save(path, Checkpoint(config, methods, state, **known))


def save_code(path: Path) -> None:
    """Weights of `net`, as Lightning leaves them."""
    module = user_models.load_module(f"{path.parent / 'nets.py'}:net")
    torch.save({"state_dict": {f"model.{name}": value for name, value in module.state_dict().items()}}, path)


def save_oblong(path: Path) -> None:
    torch.save(timm.models.VisionTransformer((4, 8), 2, 3, 10, embed_dim=32, depth=1, num_heads=4).state_dict(), path)


KINDS: dict[str, tuple[Callable[[Path], object], list[str], list[str]]] = {  # makes a file; options; verbs
    "timm.pth": (lambda path: torch.save(build().state_dict(), path), ["--heads", "4"], ["quantize", "bench"]),
    "a name with 'blanks'.pth": (
        lambda path: torch.save(build().state_dict(), path), ["--heads", "4"], ["quantize", "bench"]
    ),
    "mean.pth": (
        lambda path: torch.save(build(global_pool="avg", class_token=False).state_dict(), path),
        ["--heads", "4", "--normalize", "0.5,0.5,0.5/0.2,0.2,0.2", "--resize", "crop", "--interpolation", "bicubic"],
        ["quantize", "bench"],
    ),
    "two.pth": (save_two, ["--heads", "2", "--weights", "teacher"], ["quantize", "bench"]),
    "last.pth": (
        lambda path: torch.save({"model": build().state_dict(), "model_ema": build().state_dict()}, path),
        ["--heads", "4", "--no-ema"],
        ["quantize", "bench"],
    ),
    "oblong.pth": (save_oblong, ["--heads", "4", "--image-size", "4x8"], ["quantize", "bench"]),
    "headless.pth": (lambda path: torch.save(build(num_classes=0).state_dict(), path), ["--heads", "4"], ["train"]),
    "huggingface": (save_huggingface, [], ["quantize", "bench"]),
    "ours.pth": (save_ours, [], ["quantize", "bench"]),
    "topk.pth": (lambda path: save_ours(path, {"name": "topk"}), [], ["quantize", "export"]),
    "bf16.pth": (lambda path: save_ours(path, {"name": "bf16"}), [], ["predict"]),
    "code.pth": (
        save_code,
        ["--model", "nets.py:net", "--image-size", "8"],
        ["quantize", "bench"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_commands_run_as_they_are_printed(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, options, verbs = KINDS[name]
    make(place / name)
    assert cli.main(["inspect", name, *options]) == 0
    printed = capsys.readouterr().out.rpartition("\nnext\n")[2].strip().splitlines()
    commands = [shlex.split(line, comments=True) for line in printed]
    assert [command[:2] for command in commands] == [["compress", verb] for verb in verbs]
    for _, verb, *words in commands:
        words = [word.replace("folder:PATH", "folder:images").replace("IMAGE", "images/3/0.png") for word in words]
        code = cli.main([verb, *words, *SHORT[verb]])
        said = capsys.readouterr()
        assert code == 0, (verb, words, said.err)
