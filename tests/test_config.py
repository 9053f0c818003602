"""The files under `configs/` load, say how they are run, train and stand in the docs."""

from itertools import takewhile
from pathlib import Path

import pytest
import torch

from baselines.data import Data, TensorSplit
from baselines.errors import InputError
from baselines.train import fit
from baselines.vit import VisionTransformer, ViTConfig
from compress import config

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for path in ROOT.glob("configs/**/*.toml") if path.parent.name != "sweeps")
BLOCKS = 2  # trained of each; a further one is the same code again
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]


def test_digits_written_out_is_the_default() -> None:
    assert config.read(ROOT / "configs/digits.toml") == config.read(None)


def test_the_cpu_recipe_is_what_cifar_gets_with_no_config() -> None:
    assert config.read(ROOT / "configs/baselines/cct_cpu.toml") == config.read(None, "cifar10")


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_file_loads_and_opens_with_its_command(path: Path) -> None:
    assert config.read(path).variants
    header = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    assert any(f"--config {path.relative_to(ROOT).as_posix()}" in line for line in header)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_file_trains(path: Path) -> None:
    """Two steps of two made images each, at the real geometry but for blocks that are alike; torch.compile is left out
    for its minutes."""
    settings = config.read(path)
    with torch.device("meta"):
        assert len(VisionTransformer(settings.model).encoder.blocks) == settings.model.depth
    shallow = settings.model.model_copy(update={"depth": min(settings.model.depth, BLOCKS)})
    data = made_data(shallow)
    for training in (settings.train, settings.finetune):
        short = {"steps": 2, "batch_size": 2, "warmup_steps": 1, "compile": False, "repeats": 1}
        model = VisionTransformer(shallow)
        before = model.head.weight.detach().clone()
        history = fit(model, data, training.model_copy(update=short), device=torch.device("cpu"), seed=0)
        assert history
        assert not torch.equal(model.head.weight, before)


def test_every_file_is_explained_in_the_docs() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    every = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/**/*.toml")]
    assert [name for name in every if name not in text] == []


def made_data(model: ViTConfig) -> Data:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, model.channels, *model.image_size), dtype=torch.uint8, generator=generator)
    split = TensorSplit(images, torch.arange(8) % model.classes)
    names = tuple(f"class {i}" for i in range(model.classes))
    return Data("made", names, split, split, (0.5,) * model.channels, (0.25,) * model.channels)


def test_files_that_come_with_compress_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert config.read(Path("configs/digits.toml")) == config.read(None)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "digits.toml").write_text("seed = 5")  # one's own comes first
    assert config.read(Path("configs/digits.toml")).seed == 5
    with pytest.raises(InputError, match=r"pyproject\.toml cannot be read"):
        config.read(Path("pyproject.toml"))
