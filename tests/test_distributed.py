"""Several processes train as one does; a process that is killed costs nothing but its time."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from baselines.data import Data, TensorSplit
from baselines.distributed import World
from baselines.feed import Feed
from baselines.recipe import TrainConfig
from baselines.train import fit
from baselines.validation import count_right
from baselines.vit import VisionTransformer, ViTConfig
from compress import loading
from compress.cli import main

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
STEPS = 16  # of an epoch: 1,437 images, of which a quarter is held out, in batches of 64

# Plain SGD, since Adam makes large steps of the rounding of gradients that are 0; batch norms, since they look at
# the images of both processes.
SETTINGS = """\
[model]
image_size = 8
patch_size = 2
dim = 16
depth = 2
heads = 2
mlp_dim = 32
norm = "batch"

[train]
epochs = 3
batch_size = 64
optimizer = "sgd"
lr = 0.05
warmup_epochs = 1
ema = 0.9
crop_padding = 1
flip = false
mixup = 0.2
cutmix = 1.0
validation = 0.25
precision = "fp32"
"""

# The command line, keeping its state after every step, one process of which kills itself before a given step.
DRIVER = """\
import os, signal, sys
from compress.cli import processes

processes.quieten()
from baselines import train
from compress.cli import main

def advance(trainer, batch, advance=train.Trainer.advance):
    if os.environ.get("VICTIM") == f"{trainer.world.rank} {trainer.step}":
        os.kill(os.getpid(), signal.SIGKILL)
    advance(trainer, batch)

train.SNAPSHOT_S = 0.0
train.Trainer.advance = advance
sys.exit(main(["train", "--device", "cpu", "--threads", "1", "--config", *sys.argv[1:]]))
"""

Launch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("several")
    (path / "driver.py").write_text(DRIVER)
    (path / "settings.toml").write_text(SETTINGS)
    return path


@pytest.fixture(scope="module")
def launch(folder: Path) -> Launch:
    """Trains in processes of its own, `victim` being "rank step" of the one that is killed."""

    def start(
        out: str, processes: int = 2, victim: str = "", settings: str = "settings.toml"
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "driver.py", settings, "--out", out]
        if processes > 1:
            command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "VICTIM": victim}
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)

    return start


@pytest.fixture(scope="module")
def two(launch: Launch, folder: Path) -> Path:
    """Trained by two processes without interruption."""
    done = launch("two")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("training vit on digits: 3 epochs on 2 x cpu") == 1
    return folder / "two"


def weights(out: Path) -> dict[str, Tensor]:
    return loading.restore(out / "best_vit_model.pth")[2].state


def records(out: Path) -> list[dict[str, float]]:
    (path,) = out.glob("models/*/training.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- two processes


def test_two_processes_end_where_one_does(two: Path, folder: Path) -> None:
    out = folder / "one"
    args = ["--config", str(folder / "settings.toml"), "--device", "cpu", "--threads", "1", "--out", str(out)]
    assert main(["train", *args]) == 0
    shared, alone = weights(two), weights(out)
    assert shared.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, atol=1e-4, rtol=1e-4, msg=name)
    held_out = 359  # an odd number, so that the processes evaluate 180 and 179
    for mine, theirs in zip(records(two), records(out), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert mine["train_top1"] == pytest.approx(theirs["train_top1"], abs=1.5 / (64 * STEPS))
        assert mine["validation_top1"] * held_out == pytest.approx(round(mine["validation_top1"] * held_out), abs=1e-3)
        assert mine["validation_top1"] == pytest.approx(theirs["validation_top1"], abs=1.5 / held_out)


def test_a_killed_process_ends_the_others_and_costs_no_step(two: Path, launch: Launch, folder: Path) -> None:
    killed = launch("killed", victim=f"1 {STEPS + 5}")
    (state,) = (folder / "killed").glob("models/*/state.pt")
    said = (
        f"error: another process of this training ended; its state after step {STEPS + 5} is saved in "
        f"{state.relative_to(folder)}: run the same command again to resume\n"
    )
    assert killed.returncode == 1
    assert killed.stderr.count(said) == killed.stderr.count("error: ") == 1
    assert killed.stderr.count("Traceback") == 1  # the launcher's own
    assert torch.load(state, weights_only=True)["step"] == STEPS + 5
    again = launch("killed")
    assert (again.returncode, again.stderr) == (0, "")
    assert same_bits(weights(folder / "killed"), weights(two))
    assert not state.exists()
    timing = {"seconds", "images_per_s"}
    plain = [
        [{k: v for k, v in each.items() if k not in timing} for each in records(folder / o)] for o in ("killed", "two")
    ]
    assert plain[0] == plain[1]


def test_a_batch_that_cannot_be_shared_is_refused_once(launch: Launch, folder: Path) -> None:
    (folder / "odd.toml").write_text(SETTINGS.replace("batch_size = 64", "batch_size = 62"))
    done = launch("odd", settings="odd.toml")
    said = "error: batch_size 62 cannot be shared evenly by 2 processes; make it a multiple of 4\n"
    assert done.stderr.count(said) == done.stderr.count("error: ") == 1
    assert "exitcode  : 2" in done.stderr


def test_measuring_is_the_work_of_one_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert main(["bench"]) == 2
    assert "compress bench runs in one process, not in 2" in capfd.readouterr().err


class Answers(nn.Module):
    """Says the class that an image has as its brightness."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.eye(3)[(images[:, 0, 0, 0] * 255).round().long()]


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("total", [1, 2, 5, 11, 16])
def test_every_image_is_evaluated_once(size: int, total: int) -> None:
    labels = torch.arange(total) % 3
    split = TensorSplit(labels.to(torch.uint8).view(-1, 1, 1, 1), labels)
    data = Data("bright", ("0", "1", "2"), split, split, (0.0,), (1.0,))
    parts = [torch.arange(total)[World(rank, size).part(total)] for rank in range(size)]
    assert torch.cat(parts).tolist() == list(range(total))
    counts = [count_right(Answers(), data, data.train, part, CPU) for part in parts]
    for seen in zip(*counts, strict=True):  # right ones, all
        assert sum(seen).tolist() == labels.bincount(minlength=3).tolist()


# --- one process


def test_a_process_killed_at_any_step_ends_with_the_same_bits(launch: Launch, folder: Path) -> None:
    """Of a training that is counted in steps and ends inside an epoch, with all that is random."""
    given = SETTINGS.replace(
        "epochs = 3", "steps = 40\nrepeats = 3\nrandaugment = 1\nerasing = 0.3\nsampling = 'balanced'"
    )
    given = given.replace('optimizer = "sgd"\nlr = 0.05', "lr = 4e-3")
    given = given.replace('norm = "batch"', "dropout = 0.1\ndrop_path = 0.1")
    (folder / "steps.toml").write_text(given)
    victim = random.randrange(1, 40)
    killed = launch("once", 1, f"0 {victim}", "steps.toml")
    assert (killed.returncode, killed.stderr) == (-signal.SIGKILL, ""), victim
    args = ["train", "--config", str(folder / "steps.toml"), "--device", "cpu", "--threads", "1", "--out"]
    for out in ("once", "whole"):
        assert main([*args, str(folder / out)]) == 0
    assert same_bits(weights(folder / "once"), weights(folder / "whole")), victim
    assert [record["epoch"] for record in records(folder / "once")] == [1, 2, 3]
    for mine, theirs in zip(records(folder / "once"), records(folder / "whole"), strict=True):
        assert mine["loss"] == theirs["loss"], victim


def halves(n: int) -> Data:
    """Images whose left or right half is bright."""
    labels = torch.arange(n) % 2
    images = torch.zeros(n, 1, 8, 8, dtype=torch.uint8)
    images[labels == 0, :, :, :4] = 200
    images[labels == 1, :, :, 4:] = 200
    split = TensorSplit(images, labels)
    return Data("halves", ("left", "right"), split, split, (0.4,), (0.3,))


def trained(steps: int, **numbers: Any) -> tuple[nn.Module, list[dict[str, float]]]:
    torch.manual_seed(0)
    model = VisionTransformer(
        ViTConfig(image_size=8, channels=1, patch_size=4, dim=16, depth=1, heads=2, mlp_dim=16, classes=2)
    )
    config = TrainConfig(batch_size=16, optimizer="sgd", lr=0.1, warmup_epochs=0, ema=0, flip=False)
    config = config.model_copy(update={"steps": steps, **numbers})
    return model, fit(model, halves(40), config, device=CPU, seed=0)


def test_compiled_steps_are_the_same_steps() -> None:
    models = [trained(2, precision="fp32", compile=compiled)[0] for compiled in (False, True)]
    for plain, compiled in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-6, rtol=0)


def test_half_precision_learns_on_a_cpu() -> None:
    model, history = trained(20, precision="fp16")
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())


@pytest.mark.parametrize(("batch_size", "repeats"), [(8, 3), (8, 5), (3, 4), (7, 7)])
def test_batches_of_repeated_images_are_full(batch_size: int, repeats: int) -> None:
    train = TrainConfig(batch_size=batch_size, repeats=repeats, flip=False, crop_padding=0)
    feed = Feed(halves(30), torch.arange(30), train, CPU, 0, World())
    sizes = [len(batch.labels) for batch in feed.epoch(0)]
    assert sizes == [batch_size] * (30 // batch_size)
