"""`compress prune` and `compress halt`: one trained model, tokens taken out of it, before and after side by side."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import Run

from baselines.data import Data
from baselines.sources import load
from baselines.vit import VisionTransformer, ViTConfig
from compress import loading, variant
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import Checkpoint
from compress.cli import main
from compress.evaluate import processes
from compress.runtimes.client import Worker
from compress.training.data import sample_images
from reports import Row, parse_rows

TINY_FINETUNE = "[finetune]\nbatch_size = 64\nlr = 2e-3\nwarmup_epochs = 0.2\nema = 0.9\n"


@pytest.fixture
def model(run: Run, tmp_path: Path) -> Path:
    """A checkpoint of its own for each test."""
    return Path(shutil.copy(run.checkpoint(), tmp_path / "model.pth"))


@pytest.fixture
def _made_up_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that start at once, for tests that look at files."""
    command = [sys.executable, str(Path(__file__).with_name("fake_worker.py")), "0.01"]
    monkeypatch.setattr(processes.Worker, "start", lambda *_: Worker(command, threads=1))


def read_rows(model: Path, verb: str = "prune") -> list[Row]:
    path = model.with_name(f"{model.stem}-{verb}") / "rows.jsonl"
    return parse_rows(path.read_text(), path.name)


def prune(*args: object, verb: str = "prune") -> int:
    """Latency is measured as briefly as can be."""
    return main([verb, *map(str, args), "--threads", "1", "--device", "cpu", "--seconds", "0.1"])


def normalised(content: Checkpoint, root: Path) -> Data:
    data = load(content.dataset, content.config.image_size, content.config.channels, root)
    return data.with_normalization(content.mean, content.std)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("verb", "args", "settings"),
    [
        ("prune", ["--keep", "0.5"], {"name": "topk", "keep": 0.5, "tune": False}),
        ("halt", ["--target-macs", "0.8"], {"name": "avit", "target_macs": 0.8, "tune": False}),
    ],
)
def test_an_answer_without_training_and_a_checkpoint_that_ships(
    verb: str,
    args: list[str],
    settings: dict[str, object],
    model: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert prune(model, *args, verb=verb) == 0
    target = model.with_name(f"model.{settings['name']}.pth")
    assert names(model.parent) == {model.name, target.name, f"{target.name}.json", f"model-{verb}"}
    printed = capfd.readouterr().out
    assert printed.splitlines()[-1].startswith(f"wrote {target}; next: compress export {target}")

    dense, _, old = loading.restore(model)
    shipped, which, new = loading.restore(target)
    (method,) = which.methods
    assert settings.items() <= which.describe()[0].items()
    assert all(torch.equal(new.state[name], value) for name, value in old.state.items())
    data = normalised(new, tmp_path)
    expected = variant.prepare(dense, [method]).eval()
    method.calibrate(expected, sample_images(data, 256))
    images = next(data.batches(data.test, 100, torch.device("cpu")))[0]
    assert torch.equal(shipped(images), expected(images))

    before, after = read_rows(model, verb)
    assert (before.variant, before.recipe, after.variant, after.verb) == ("vit", None, settings["name"], verb)
    share = (after.macs_per_image or 0) / (before.macs_per_image or 1)
    assert share < 1
    assert after.ceiling == pytest.approx(1 / share)
    assert before.agreement is before.mcnemar_p is None
    assert after.agreement is not None
    assert after.mcnemar_p is not None
    assert (before.n_images, after.n_images) == (360, 360)
    assert before.latency_s
    assert after.speedup_low
    if verb == "halt":
        assert share == pytest.approx(0.8, abs=0.04)  # of test images; the gate was set on others
        assert after.macs_quantiles is not None
        assert after.macs_quantiles[1] < (after.macs_promised or 0) < after.macs_quantiles[3]
        assert after.tokens_per_block is not None
        assert after.tokens_per_block[0] > after.tokens_per_block[1]
        assert before.tokens_per_block is None
    else:
        assert main(["export", str(target)]) == 0


def test_a_curve_begins_with_the_model_itself_and_writes_none(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert prune(model, "--keep", "1,0.75,0.5") == 0
    assert names(model.parent) == {model.name, "model-prune"}
    assert "writes no checkpoint" in capfd.readouterr().out.splitlines()[-1]
    before, whole, *rest = read_rows(model)
    assert [row.recipe for row in (whole, *rest)] == ["keep 1", "keep 0.75", "keep 0.5"]
    assert (whole.top1, whole.agreement, whole.mcnemar_p) == (before.top1, 1, 1)
    macs = [row.macs_per_image or 0 for row in (before, whole, *rest)]
    assert macs[0] == macs[1] > macs[2] > macs[3]


@pytest.mark.usefixtures("_made_up_times")
def test_after_training_a_third_row_and_the_second_time_at_once(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "my.toml"
    settings.write_text(TINY_FINETUNE)
    args = [model, "--keep", "0.5", "--epochs", "1", "--config", settings]
    assert prune(*args) == 0
    assert "training topk" in capfd.readouterr().out
    first = read_rows(model)
    assert [(row.variant, row.recipe) for row in first] == [
        ("vit", None), ("topk", "keep 0.5"), ("topk", "keep 0.5, 1 epoch")
    ]  # fmt: skip
    target, folder = tmp_path / "model.topk.pth", tmp_path / "model-prune"
    (made,) = folder.glob("models/topk-*/best_topk_model.pth")
    assert target.read_bytes() == made.read_bytes()
    assert loading.restore(target)[1].describe()[0]["tune"] is True
    dense, tuned = checkpoint.load(model).state, checkpoint.load(target).state
    assert not torch.equal(dense["head.weight"], tuned["head.weight"])

    assert prune(*args) == 0
    assert "training topk" not in capfd.readouterr().out
    assert read_rows(model) == first  # taken from the run directory
    assert prune(*args, "--no-resume") == 0
    assert "training topk" in capfd.readouterr().out


@pytest.mark.usefixtures("_made_up_times")
def test_weights_stay_in_the_precision_of_the_file(model: Path) -> None:
    content = checkpoint.load(model)
    half = {name: value.half() if value.is_floating_point() else value for name, value in content.state.items()}
    checkpoint.save(model, Checkpoint(**{**vars(content), "state": half}))
    assert prune(model) == 0
    assert {value.dtype for value in checkpoint.load(model.with_name("model.topk.pth")).state.values()} == {
        value.dtype for value in half.values()
    }


@pytest.mark.usefixtures("_made_up_times")
def test_a_narrow_model_loses_tokens_too(model: Path, tmp_path: Path) -> None:
    content = checkpoint.load(model)
    config = ViTConfig(**{**content.config.model_dump(), "dim": 16, "mlp_dim": 32})
    narrow = Checkpoint(
        **{
            **vars(content),
            "config": config,
            "methods": ({"name": "narrow", "macs": 0.3}, {"name": "distill"}),
            "state": VisionTransformer(config).state_dict(),
        }
    )
    checkpoint.save(model, narrow)
    assert prune(model) == 0
    assert loading.restore(tmp_path / "model.topk.pth")[1].name == "narrow_topk_distill"


# --- refusals


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["prune", "--method", "tome", "--keep", "0.5"], ["--keep", "tome", "takes --r or --target-macs"]),
        (["prune", "--r", "4"], ["--r", "topk", "takes --keep"]),
        (["prune", "--method", "avit", "--keep", "0.5"], ["--keep", "avit", "takes --target-macs"]),
        (["prune", "--method", "tome", "--r", "2", "--target-macs", "0.7"], ["--r and --target-macs", "one of them"]),
        (["prune", "--method", "int8"], ["--method 'int8'", "avit, topk"]),
        (["prune", "--method", "shears"], ["--method 'shears'", "avit, topk"]),
        (["prune", "--keep", "1.5"], ["--keep 1.5", "no share"]),
        (["prune", "--keep", "0.9,0"], ["--keep 0", "no share"]),
        (["prune", "--keep", "nan"], ["--keep nan", "finite number"]),
        (["prune", "--keep", "half"], ["--keep 'half'", "not a number"]),
        (["prune", "--keep", ""], ["--keep ''", "not a number"]),
        (["prune", "--keep", "0.9,0.5", "--epochs", "1"], ["--epochs", "--keep names 2", "one value"]),
        (["prune", "--method", "tome", "--r", "2.5"], ["--r 2.5", "integer"]),
        (["prune", "--data", "imagenet"], ["--data 'imagenet'", "digits"]),
        (["prune", "--device", "tpu"], ["--device 'tpu'", "cpu, cuda or auto"]),
        (["prune", "--config", "nowhere.toml"], ["nowhere.toml", "TOML"]),
        (["halt", "--target-macs", "7"], ["--target-macs 7", "less than or equal to 1"]),
        (["halt", "--epochs", "-1"], ["--epochs", "compress halt --help"]),
    ],
)
def test_options_that_do_not_fit(
    args: list[str], words: list[str], model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refused([args[0], str(model), *args[1:]], words, model, capfd)


@pytest.mark.parametrize(("kind", "verb"), [("avit", "prune"), ("avit_int8", "halt")])
def test_a_model_that_lost_tokens_or_floats_before(
    kind: str, verb: str, run: Run, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(run.checkpoint(kind), model)
    refused([verb, str(model)], [str(model), f"already {kind!r}", "float model"], model, capfd)


@pytest.mark.parametrize("keep", ["0.7", "1,0.7"])
def test_what_guesses_until_it_is_trained_asks_for_epochs(
    keep: str, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    args = ["prune", str(model), "--method", "dynamicvit", "--keep", keep]
    refused(args, ["--method dynamicvit", "--epochs"], model, capfd)


def refused(args: list[str], words: list[str], model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One sentence, exit code 2, and nothing is written."""
    before = names(model.parent)
    assert main(args) == 2
    out, error = capfd.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error
    assert names(model.parent) == before
