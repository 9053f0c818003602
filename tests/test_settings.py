"""`compress config` says every setting, and what it prints is a file of settings again."""

import re
import tomllib
from pathlib import Path

import pytest
from conftest import Run

from compress import config, settings
from compress.cli import main
from compress.config import BenchConfig
from compress.methods import METHODS
from compress.settings import describe_file, describe_keys, to_toml


def test_every_key_is_there_with_a_meaning() -> None:
    text = describe_keys()
    assert tomllib.loads(text) == {}  # nothing is set until a sign is taken off
    bare = "\n".join(
        line.removeprefix("#") for line in text.splitlines() if not re.match(r"#? |#\w+ =$|#\w+ =  #", line)
    )
    known = tomllib.loads(bare)
    resolved = config.read(None).model_dump(mode="json")
    assert known["train"] == resolved["train"]
    assert known["pretrain"] == resolved["pretrain"]
    assert known["methods"].keys() == METHODS.keys()
    assert known["subset"]["seed"] == 0
    keys = [line for line in text.splitlines() if re.match(r"#\w+ =", line)]
    lines = text.splitlines()
    silent = [key for key in keys if "  # " not in key and not lines[lines.index(key) - 1].startswith("# ")]
    assert silent == []
    assert 'pool = "cls"  # seq: a learned weighted mean (arXiv 2104.05704); one of "cls", "mean", "seq"' in text
    assert "epochs = 16 " in describe_keys("cifar10")


def test_a_file_shows_where_each_value_comes_from(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('data = "cifar10"\n[train]\nepochs = 3\n[methods.topk]\nkeep = 0.5\n')
    assert main(["config", str(path), "--seed", "5"]) == 0
    shown = capfd.readouterr().out
    for line in (
        'data = "cifar10"  # mine.toml',
        "seed = 5  # option",
        "epochs = 3  # mine.toml",
        "lr = 0.0015  # preset of cifar10",
        "clip_norm = 1.0  # default",
        "keep = 0.5  # mine.toml",
        "multiple = 1  # default",
    ):
        assert line in shown.splitlines()
    (tmp_path / "again.toml").write_text(shown)
    again = config.read(tmp_path / "again.toml")
    assert tomllib.loads(describe_file(tmp_path / "again.toml")) == tomllib.loads(shown)
    assert again.train == config.read(path).train
    path.write_text("[train]\nepoch = 3\n")
    assert main(["config", str(path)]) == 2
    assert "did you mean 'epochs'" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.toml")), ids=str)
def test_what_is_written_is_read_back(path: Path, tmp_path: Path) -> None:
    def resolve_methods(resolved: BenchConfig) -> dict[str, object]:
        return {name: METHODS[name](**values) for name, values in resolved.methods.items()}

    before = config.read(path)
    again = config.read(settings.keep(tmp_path, before))
    assert resolve_methods(again) == resolve_methods(before)
    assert again.model_copy(update={"methods": {}}) == before.model_copy(update={"methods": {}})


def test_a_run_keeps_its_settings_and_options_of_train_override_them(run: Run, tiny: Path, tmp_path: Path) -> None:
    kept = config.read(run.out / "config.toml")
    assert kept.train == config.read(tiny).train
    assert kept.model.dim == 32
    out = tmp_path / "out"
    options = ["--config", str(tiny), "--epochs", "2", "--lr", "0.002", "--batch-size", "32"]
    assert main(["train", *options, "--device", "cpu", "--threads", "1", "--out", str(out)]) == 0
    train = config.read(out / "config.toml").train
    assert (train.epochs, train.lr, train.batch_size, train.warmup_epochs) == (2, 0.002, 32, 0.25)
    assert to_toml(config.read(out / "config.toml")) == (out / "config.toml").read_text()


def test_a_learning_rate_that_is_none(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", str(tiny), "--lr", "-1"]) == 2
    assert "'lr' should be greater than 0" in " ".join(capfd.readouterr().err.split())
