"""Benchmarks as a person types them, on models that take no time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from reports import parse_rows

TINY = ["--geometry", "64x1p8", "--device", "cpu", "--threads", "1", "--workers", "1", "--batch-size", "8"]
TINY += ["--seconds", "0.02", "--rounds", "2", "--no-compile"]
ROWS = ["ours bf16", "ours bf16, no average", "ours fp32", "timm bf16", "timm bf16, no loader", "timm fp32"]


def run(script: str, *args: str, path: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"benchmarks/{script}.py", *args]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([path, str(ROOT)])}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_training_is_compared_with_timm(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    done = run("train", *TINY, "--out", str(tmp_path / "train.json"))
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
    done = run("train", *TINY, path=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'compress-vit[benchmark]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_int8_is_compared_with_peers(tmp_path: Path) -> None:
    (tmp_path / "torchao.py").write_text("raise ImportError('it is not here')")
    rows = "ort_dynamic,torchao,ours_ort_static"
    args = ["--geometry", "tiny", "--batch-sizes", "3", "--threads", "1", "--seconds", "0.1", "--rows", rows]
    done = run("int8", *args, "--folder", str(tmp_path), "--out", str(tmp_path / "out"), path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    measured = parse_rows((tmp_path / "out" / "rows.jsonl").read_text(), "rows.jsonl")
    found = {row.recipe or row.variant: row for row in measured}
    assert list(found) == ["vit", *rows.split(",")]
    assert found["torchao"].failed == "torchao ended with exit code 1: ImportError: it is not here"
    assert [row.failed for name, row in found.items() if name != "torchao"] == [None] * 3
    assert "torchao ended with exit code 1: ImportError: it is not here" in done.stdout
    linears, attention = 17 * (4 * 32 * 32 + 2 * 32 * 64), 2 * 32 * 17 * 17
    share = 2 * linears / (2 * (linears + attention) + 16 * 4 * 32 + 32 * 10)
    (artifact,) = tmp_path.glob("*/int8-*.onnx")
    ours, peer = found["ours_ort_static"], found["ort_dynamic"]
    assert (ours.executed, ours.integer_share, ours.agreement) == ("int8", pytest.approx(share), 1)
    assert ours.file_bytes == artifact.stat().st_size
    assert ours.overall_low < ours.overall < ours.overall_high
    assert peer.overall is not None
    assert ours.sqnr_db > 30
    assert ours.sqnr_db > peer.sqnr_db > 0


def test_tokens_are_compared_with_the_dense_model_of_the_same_numbers(tmp_path: Path) -> None:
    args = ["--geometry", "tiny", "--methods", "topk", "--batch-sizes", "2", "--threads", "1", "--seconds", "0.1"]
    done = run("tokens", *args, "--engines", "torch_bf16", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    dense, topk = parse_rows((tmp_path / "rows.jsonl").read_text(), "rows.jsonl")
    assert [(row.variant, row.dense) for row in (dense, topk)] == [("bf16", True), ("topk_bf16", False)]
    assert dense.speedup == 1
    assert topk.speedup_low < topk.speedup < topk.speedup_high
    assert topk.macs_per_image < dense.macs_per_image


def test_loaders_are_compared_and_their_memory_is_watched(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    pytest.importorskip("webdataset")
    small = ["--files", "16", "--images", "96", "--batch-size", "8", "--workers", "1"]
    done = run("loader", *small, "--seconds", "0.01", "--rounds", "2", "--out", str(tmp_path / "loader.json"))
    assert done.returncode == 0, done.stderr
    kept = {row["name"]: row for row in json.loads((tmp_path / "loader.json").read_text())["rows"]}
    assert [*kept] == ["ours, files", "ours, shards", "timm", "torchvision", "torchvision, tensors"]
    assert all(len(row["images_per_s"]) == 2 and row["ratio"] for row in kept.values())
    done = run("loader", *small, "--processor", "32", "--rounds", "1", "--out", str(tmp_path / "loader.json"))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "loader.json").read_text())["rows"]
    assert all(min(row["worker_ms"]) > 0 for row in rows)
