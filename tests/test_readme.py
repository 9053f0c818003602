"""README as a new user follows it: a file of timm, the commands as printed, and the program that comes out."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
from conftest import ROOT
from PIL import Image
from rich.cells import cell_len
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK = {  # what keeps each command short; the rest is README's
    "quantize": ["--runtime", "onnxruntime", "--threads", "1", "--seconds", "0.2", "--max-drop", "100", "--heads", "2"],
    "search": ["--runtime", "onnxruntime", "--threads", "1", "--heads", "2", "--trials", "3", "--max-drop", "100"],
    "prune": ["--threads", "1", "--seconds", "0.2", "--heads", "2"],
    "halt": ["--threads", "1", "--seconds", "0.2", "--heads", "2"],
    "export": ["--heads", "2"],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(verb: str) -> list[list[str]]:
    """The words of each line of README that runs this verb on a file."""
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith(f"compress {verb} ")]
    assert lines
    return [shlex.split(line, comments=True)[1:] for line in lines]


def vit() -> nn.Module:
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(8, 2, num_classes=10, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2)
    nn.init.normal_(model.head.weight)
    return model.eval()


@pytest.fixture(scope="module")
def recorder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_session", ROOT / "docs" / "record_session.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a file of timm and images as README has them."""
    scans = load_digits()
    for label in range(10):
        for number, scan in enumerate(scans.images[scans.target == label][:8]):
            folder = tmp_path / "photos" / ("test" if number < 3 else "train") / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((scan * 15.9).astype("uint8")).convert("RGB").save(folder / f"{number}.jpg")
    torch.save(vit().state_dict(), tmp_path / "deit_s.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def test_from_a_file_of_timm_to_a_program_that_runs_the_winner(place: Path, recorder: ModuleType) -> None:
    for words in [words for verb in QUICK for words in commands(verb)]:
        verb, more = words[0], QUICK[words[0]]
        if "deit_s.pth" not in words:  # README's later commands take a checkpoint that knows its images
            words[words.index("best_vit_model.pth")] = "deit_s.pth"
            words += ["--data", "photos"]
        shown = recorder.run([sys.executable, "-m", "compress", *words, *more], width=80)
        table = [line for line in shown.splitlines() if re.search(r"[─│★]|^[a-z0-9_]+ +(torch|onnxruntime) ", line)]
        assert all(cell_len(line) <= 80 for line in table), shown
        assert "…" not in "".join(table)
        if verb == "quantize":
            program = shown[shown.index("import onnxruntime") :]
    (place / "run.py").write_text(re.sub(r"\x1b\[[0-9;]*m", "", program) + "\nprint(logits.shape)\n")
    assert subprocess.check_output([sys.executable, "run.py"], text=True).strip() == "(1, 10)"
    assert (place / "deit_s.onnx").is_file()


def test_its_lines_of_python_run(place: Path) -> None:
    images = torch.randn(80, 3, 8, 8)
    model = vit()
    loader = DataLoader(TensorDataset(images, model(images).argmax(1)), 20)
    names = {"model": model, "train_loader": loader, "test_loader": loader, "images": images}
    (block,) = blocks("python")
    quick = "test=test_loader, runtimes=('onnxruntime',), threads=1, seconds=0.2, max_drop=100"
    short = block.replace("test=test_loader", quick)
    exec(short, names)
    assert names["logits"].shape == (80, 10)
    assert (place / "model.int8.onnx").is_file()


def test_it_is_short_and_every_file_that_it_names_exists() -> None:
    assert len(README.splitlines()) <= 150
    for link in re.findall(r"\]\(([^):#]+)\)", README):
        assert (ROOT / link).exists(), link
