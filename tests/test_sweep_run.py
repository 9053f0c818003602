"""`compress sweep` as a person types it: killed and resumed, shared by processes, on models that train in seconds."""

import csv
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from baselines import macs
from compress.cli import main
from compress.sweep import settings

TINY = """\
[model]
patch_size = 4
depth = 1
mlp_dim = 16
[train]
epochs = {}
batch_size = 256
[sweep.space]
{}
"""


def test_a_killed_sweep_goes_on_and_a_finished_one_does_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "made.toml", tmp_path / "out"
    file.write_text(TINY.format(10, "model.dim = [8, 12]\nmodel.heads = [2, 8]\ntrain.lr = [1e-3, 1e30]"))
    args = ["sweep", str(file), "--out", str(out), "--device", "cpu", "--threads", "1"]
    with subprocess.Popen([sys.executable, "-m", "compress", *args], cwd=ROOT, text=True) as process:
        deadline = time.monotonic() + 120
        while not list(out.glob("trials/*/state.pt")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    (state,) = out.glob("trials/*/state.pt")
    curve = state.with_name("training.jsonl")
    before = curve.read_text().splitlines()[:-1]  # the newest epoch may have ended after the newest state

    assert main(args) == 0
    said = capfd.readouterr().out
    assert curve.read_text().splitlines()[: len(before)] == before  # seconds and all
    assert len(curve.read_text().splitlines()) == 10
    assert said.count("trial ") == 8
    assert said.count("impossible: heads 8 does not divide dim 12") == 2
    assert said.count("failed: the loss became ") == 3
    assert not list(out.rglob("state.pt"))

    table = csv.DictReader((out / "sweep.csv").read_text().splitlines())
    rows = {(row["model.dim"], row["model.heads"]): row for row in table if row["state"] == "done"}
    assert rows.keys() == {("8", "2"), ("8", "8"), ("12", "2")}
    best = {path.parent.name: json.loads(path.read_text()) for path in out.glob("trials/*/result.json")}
    assert {str(each["top1"]) for each in best.values()} == {row["top1"] for row in rows.values()}
    config = settings.read(file).at({"model.dim": 12, "model.heads": 2, "train.lr": 1e-3})
    assert int(rows["12", "2"]["macs_per_image"]) == macs.dense_macs(config.model)
    assert {row["n_images"] for row in rows.values()} == {"287"}  # a fifth of the training images

    report = {name: (out / name).read_bytes() for name in ("sweep.md", "sweep.csv", "sweep.png", "sweep.svg")}
    for name in report:
        (out / name).unlink()
    assert main(args) == 0
    assert "trial " not in capfd.readouterr().out
    assert {name: (out / name).read_bytes() for name in report} == report


def test_processes_with_folders_of_their_own_share_one_database(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "made.toml"
    file.write_text(TINY.format(6, "seed = [0, 1, 2, 3, 4, 5]"))
    args = ["sweep", str(file), "--device", "cpu", "--threads", "1", "--storage", str(tmp_path / "shared.log"), "--out"]
    command = [sys.executable, "-m", "compress", *args, str(tmp_path / "other")]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE) as process:
        while not (tmp_path / "shared.log").exists():
            assert process.poll() is None
            time.sleep(0.005)
        assert main([*args, str(tmp_path / "own")]) == 0
        theirs = process.communicate()[0]
    ours = capfd.readouterr().out
    done = sorted(re.findall(r"^trial (\d) of 6", ours + theirs, re.MULTILINE))
    assert (process.returncode, done) == (0, ["1", "2", "3", "4", "5", "6"])
    reports = [(tmp_path / name / "sweep.md").read_text() for name in ("own", "other")]
    assert any("6 trials on digits, grid: 6 done." in report for report in reports)  # whoever was the last
