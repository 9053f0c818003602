"""`--dry-run` says what would be done, and does none of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Run

from compress.cli import main
from compress.verbs.plan import format_time


@pytest.fixture
def plan(capfd: pytest.CaptureFixture[str]) -> Any:
    def call(*args: object) -> tuple[list[dict[str, str]], dict[str, float], str]:
        assert main([*map(str, args), "--dry-run", "--json", "--threads", "1"]) == 0
        shown = capfd.readouterr()
        document = json.loads(shown.out)
        seconds = document["seconds"]
        assert sum(seconds.values()) == pytest.approx(2 * seconds["total"])
        return document["plan"], seconds, shown.err

    return call


def test_a_plan_of_quantize(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = Path(shutil.copy(run.checkpoint(), tmp_path / "model.pth"))
    entries, seconds, said = plan("quantize", model, "--runtime", "onnxruntime", "--seconds", 3)
    assert [entry["candidate"] for entry in entries] == [
        "vit in torch",
        "vit in onnxruntime",
        "int8 (static) in onnxruntime",
        "int8 (dynamic) in onnxruntime",
        "int8 (dynamic by token) in onnxruntime",
    ]
    assert {entry["built"] for entry in entries} == {"yes"}
    assert seconds["timing"] == 6
    assert "the first 128 of all, 360 from the fastest on" in said
    assert {path.name for path in tmp_path.iterdir()} <= {model.name, "cache"}


def test_a_plan_of_a_bench(run: Run, tiny: Path, tmp_path: Path, plan: Any) -> None:
    args = ["--config", tiny, "--device", "cpu", "--seconds", 2, "--no-plain", "--runtime", "torch"]
    entries, seconds, said = plan("bench", *args, "--variants", "vit,topk,bf16", "--out", tmp_path)
    assert {entry["candidate"]: entry["model"] for entry in entries} == {
        "vit in torch": "trained",
        "topk in torch": "trained",
        "bf16 in torch": "made",
    }
    assert seconds["training"] > 0
    assert seconds["timing"] == 4  # batches of 1 and 32
    assert "all 360" in said
    assert not list(tmp_path.glob("**/*.pth"))
    entries, seconds, _ = plan("bench", *args, "--checkpoint", run.checkpoint(), "--variants", "vit", "--out", tmp_path)
    assert entries[0]["model"].startswith("there")
    assert seconds["training"] == 0


def test_a_given_model_is_not_fine_tuned_unasked(run: Run, tmp_path: Path, plan: Any) -> None:
    args = ["--checkpoint", run.checkpoint(), "--device", "cpu", "--no-plain", "--runtime", "torch", "--out", tmp_path]
    args += ["--variants", "topk,tome_int8,dynamicvit,topk_distill"]
    entries, _, said = plan("bench", *args)
    assert {entry["candidate"]: entry["model"] for entry in entries if entry["candidate"] != "vit in torch"} == {
        "topk in torch": "made",
        "tome_int8 in torch": "made",
        "dynamicvit in torch": "trained",
        "topk_distill in torch": "trained",
    }
    assert "topk, tome_int8: not fine-tuned, as they work without; --epochs N fine-tunes them" in said
    entries, _, said = plan("bench", *args, "--epochs", 1)
    assert {entry["model"] for entry in entries[1:]} == {"trained"}
    assert "not fine-tuned" not in said


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (99, "99 s"), (100, "2 min"), (5400, "90 min"), (9000, "2.5 h")]
)
def test_times_in_words(seconds: float, text: str) -> None:
    assert format_time(seconds) == text
