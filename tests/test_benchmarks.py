"""The benchmark of training as a person types it, on a model that trains in no time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

TINY = ["--geometry", "64x1p8", "--device", "cpu", "--threads", "1", "--workers", "1", "--batch-size", "8"]
TINY += ["--seconds", "0.02", "--rounds", "2", "--no-compile"]
ROWS = ["ours bf16", "ours bf16, no average", "ours fp32", "timm bf16", "timm bf16, no loader", "timm fp32"]


def train(*args: str, path: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/train.py", *args]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([path, str(ROOT)])}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_training_is_compared_with_timm(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    done = train(*TINY, "--out", str(tmp_path / "train.json"))
    assert done.returncode == 0, done.stderr
    for name in ROWS:
        assert name in done.stdout
    kept = json.loads((tmp_path / "train.json").read_text())
    assert [row["name"] for row in kept["rows"]] == ROWS
    macs = 16 * 64 * 192 + 64 * 10 + 17 * (4 * 64 * 64 + 2 * 64 * 256) + 2 * 64 * 17 * 17
    for row in kept["rows"]:
        peak = kept["peak_flops"][row["name"].removeprefix("ours ").removeprefix("timm ")[:4]]
        assert row["share_of_peak"] == pytest.approx(row["images_per_s"] * 6 * macs / peak)
        assert len(row["images_per_s_of_rounds"]) == 2
        assert (row["speedup"] == [1, 0.99, 1.01]) == (row["name"] in ("timm bf16", "timm fp32"))


def test_timm_is_asked_for_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("raise ImportError('No module named timm')")
    done = train(*TINY, path=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'compress[benchmark]'" in done.stderr
    assert "Traceback" not in done.stderr
