"""`compress quantize`: every recipe takes part, the fastest good file is kept, remembered and explained."""

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import Run
from rich.console import Console

from compress import loading
from compress.cli import main
from compress.doctor import overview
from compress.evaluate.elimination import SAMPLE, TIE
from compress.measure.load import Watch
from compress.runtimes import choices
from compress.runtimes.ort_graph import count_integer_products
from compress.sidecar import read_record
from compress.tables import Findings
from compress.training.data import describe_calibration, load_data, sample_parity_images
from reports import Row, parse_rows

Quantize = Callable[..., tuple[int, str, str]]
QUICK = ["--threads", "1", "--seconds", "0.1"]


@pytest.fixture
def quantize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Quantize:
    """Runs the command with ONNX Runtime alone; exit code, what it said, and the error."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(checkpoint: Path, *args: str) -> tuple[int, str, str]:
        engine = [] if "--runtime" in args else ["--runtime", "onnxruntime"]
        code = main(["quantize", str(checkpoint), *QUICK, *engine, *args])
        shown = capfd.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def checkpoint(run: Run, tmp_path: Path) -> Path:
    """A float model in a folder of its own."""
    folder = tmp_path / "model"
    folder.mkdir()
    return Path(shutil.copy(run.out / "best_vit_model.pth", folder / "best_vit_model.pth"))


@pytest.fixture(scope="module")
def quantized(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A float model that was quantized in `model`, with a `cache` beside it, and what was said."""
    place = tmp_path_factory.mktemp("quantized")
    (place / "model").mkdir()
    path = shutil.copy(run.out / "best_vit_model.pth", place / "model" / "best_vit_model.pth")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said := StringIO()):
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        patch.setattr(Watch, "warnings", lambda _self: [])  # what other programs disturbed is not remembered
        assert main(["quantize", str(path), *QUICK, "--runtime", "onnxruntime"]) == 0
    return Path(path), said.getvalue()


def read_rows(checkpoint: Path) -> list[Row]:
    path = checkpoint.with_name(f"{checkpoint.stem}-quantize") / "rows.jsonl"
    return parse_rows(path.read_text(), path.name)


def test_all_recipes_are_shown_and_the_best_is_kept(quantized: tuple[Path, str]) -> None:
    checkpoint, shown = quantized
    small, full = checkpoint.with_suffix(".int8.onnx"), checkpoint.with_suffix(".onnx")
    folder = checkpoint.with_name(f"{checkpoint.stem}-quantize")
    assert {path.name for path in checkpoint.parent.iterdir()} == {
        checkpoint.name,
        small.name,
        full.name,
        folder.name,
    } | {
        f"{small.name}.json",
        f"{full.name}.json",
    }
    record = read_record(small)
    assert record is not None
    assert (record["n_images"], record["source"]) == (360, str(checkpoint))
    rows = read_rows(checkpoint)
    assert [(row.runtime, row.dtype, row.recipe) for row in rows] == [
        ("torch", "fp32", None),
        ("onnxruntime", "fp32", None),
        *(("onnxruntime", "int8", recipe) for recipe in ("static", "dynamic", "dynamic by token")),
    ]
    assert all(row.latency_s and row.top1 and row.verb == "quantize" for row in rows)
    (kept,) = [row for row in rows if row.chosen]
    assert kept.completed
    assert kept.dtype == "int8"
    assert kept.n_images == 360
    assert kept.chosen is not None
    assert kept.chosen.startswith(f"kept: onnxruntime: {kept.recipe}: ")
    assert kept.chosen in " ".join(shown.split())
    assert f"wrote {full} and {small}" in shown
    assert count_integer_products(small) == (8, 0)  # 4 Linear layers in each of 2 blocks, all in integer kernels
    content = loading.restore(checkpoint)[2]
    data = load_data("digits", content.config.image_size, 1, checkpoint.parent).with_normalization(
        content.mean, content.std
    )
    session, reference = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (small, full)
    )
    known = json.loads(session.get_modelmeta().custom_metadata_map["calibration"])
    assert known == describe_calibration(data, 256)
    images = sample_parity_images(data)[:7].numpy()
    for size in (1, 2, 7):
        logits, exact = (each.run(None, {"images": images[:size]})[0] for each in (session, reference))
        assert logits.shape == (size, 10)
        assert 0 < np.abs(logits - exact).max() < 0.2 * np.abs(exact).max()


def test_the_choice_is_remembered_orders_the_work_and_holds_when_all_is_measured(
    quantized: tuple[Path, str], quantize: Quantize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watch, "warnings", lambda _self: [])
    shutil.copytree(quantized[0].parents[1], tmp_path, dirs_exist_ok=True)
    checkpoint = tmp_path / "model" / quantized[0].name
    rows = read_rows(checkpoint)
    ((key, known),) = choices.load().items()
    (kept,) = [row for row in rows if row.chosen]
    assert (known.chosen, known.why) == (f"onnxruntime: {kept.recipe}", kept.chosen)
    assert known.tried[known.chosen] == pytest.approx(kept.overall, abs=1e-3)
    for row in rows:  # all images only for what decides
        decides = row.completed and (row.runtime, row.dtype) != ("onnxruntime", "fp32")
        assert row.n_images == (360 if decides else SAMPLE)
        assert row.failed is None
        assert (row.eliminated is None) or "slower than" in row.eliminated

    choices.remember(key, replace(known, tried=known.tried | {"onnxruntime: dynamic by token": 1e6}))
    code, shown, _ = quantize(checkpoint, "--exhaustive")
    assert code == 0
    built = [line for line in shown.splitlines() if line.startswith("building int8 (")]
    assert built[0].startswith("building int8 (dynamic by token) in onnxruntime")
    complete = {row.recipe: row for row in read_rows(checkpoint)[len(rows) :]}
    assert {(row.n_images, row.completed) for row in complete.values()} == {(360, True)}
    same, best = complete[kept.recipe], next(row for row in complete.values() if row.chosen)
    assert (same.overall_high or 0) >= (1 - TIE) * (best.overall_low or 0)
    overview._choices(Findings(Console(file=(told := StringIO()), width=300)))  # as `compress doctor` tells it
    assert next(iter(choices.load().values())).chosen in told.getvalue()
    choices.locate().write_text("{broken")
    assert choices.load() == {}


def test_a_model_that_halts_tokens_and_training(run: Run, tmp_path: Path, quantize: Quantize) -> None:
    path = Path(shutil.copy(run.checkpoint("avit"), tmp_path / "halting.pth"))
    code, shown, _ = quantize(path, "--mode", "qat", "--epochs", "1", "--batch-size", "3")
    assert code == 0
    assert "kept: onnxruntime: trained: " in shown
    assert [row.recipe for row in read_rows(path)] == [None, None, "trained"]
    assert loading.restore(path.with_suffix(".qat.pth"))[1].name == "avit_qat"
    assert count_integer_products(path.with_suffix(".int8.onnx")) == (8, 0)
    assert not list(tmp_path.glob("*.state.pt"))


def test_a_goal_that_cannot_be_reached_writes_nothing(checkpoint: Path, quantize: Quantize) -> None:
    code, shown, _ = quantize(checkpoint, "--max-drop", "-100")
    assert code == 1
    assert "--max-drop -100 cannot be reached" in shown
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--mode", "fast"], "--mode 'fast' is not known; choose from static, dynamic, qat"),
        (["--runtime", "tflite"], "--runtime 'tflite' is not known"),
        (["--skip", "blocks.9.*"], "skip 'blocks.9.*' fits no layer"),
        (["--skip", "blocks.*"], "skip blocks.* leaves no layer in integers"),
        (["--mode", "qat", "--max-drop", "1"], "--max-drop is about models that are not trained"),
        (["--data", "cifar10x"], "--data"),
        (["--calibration-images", "0"], "--calibration-images"),
    ],
)
def test_wrong_options(checkpoint: Path, quantize: Quantize, args: list[str], says: str) -> None:
    code, _, error = quantize(checkpoint, *args)
    assert code == 2
    assert says in error
    assert error.count("\n") == 1
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_few_images_are_said(checkpoint: Path, quantize: Quantize) -> None:
    assert (
        "ranges come from 8 images: fewer than 32"
        in quantize(checkpoint, "--calibration-images", "8", "--mode", "static")[1]
    )
