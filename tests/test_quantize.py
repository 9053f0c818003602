"""`compress quantize`: every way to integers is measured, the fastest good one is kept, remembered and explained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import Run

from compress import loading
from compress.cli import main
from compress.evaluate import choices
from compress.measure.latency import Timing
from compress.methods import Int8
from compress.runtimes import Inspection, get
from compress.runtimes.ort import integer_products
from compress.training.data import describe_calibration, load_data, parity_images
from compress.verbs.quantize.race import Entry
from compress.verbs.quantize.request import Lowering
from compress.verbs.quantize.verdict import Judged, choose

Quantize = Callable[..., tuple[int, str, str]]


@pytest.fixture
def quantize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Quantize:
    """Runs the command with ONNX Runtime alone; exit code, what it said, and the error."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(checkpoint: Path, *args: str) -> tuple[int, str, str]:
        quick = ["--threads", "1", "--seconds", "0.1"]
        quick += [] if "--runtime" in args else ["--runtime", "onnxruntime"]
        code = main(["quantize", str(checkpoint), *quick, *args])
        shown = capfd.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def checkpoint(run: Run, tmp_path: Path) -> Path:
    """A float model in a folder of its own."""
    folder = tmp_path / "model"
    folder.mkdir()
    return Path(shutil.copy(run.out / "best_vit_model.pth", folder / "best_vit_model.pth"))


def test_all_ways_are_shown_and_the_best_is_kept(checkpoint: Path, quantize: Quantize) -> None:
    code, shown, _ = quantize(checkpoint)
    assert code == 0
    small, full = checkpoint.with_suffix(".int8.onnx"), checkpoint.with_suffix(".onnx")
    assert {path.name for path in checkpoint.parent.iterdir()} == {checkpoint.name, small.name, full.name}
    lines = {line.split("│")[1].strip(): line for line in shown.splitlines() if "│" in line}
    ways = ["onnxruntime: static", "onnxruntime: dynamic", "onnxruntime: dynamic by token"]
    assert list(lines) == ["torch: fp32", "onnxruntime: fp32", *ways]
    assert all(line.count(" ms ") == 1 for line in lines.values())
    assert "kept: onnxruntime: " in shown
    assert f"wrote {full} and {small}" in shown
    assert integer_products(small) == (8, 0)  # 4 Linear layers in each of 2 blocks, all in integer kernels
    content = loading.restore(checkpoint)[2]
    data = load_data("digits", content.config.image_size, 1, checkpoint.parent).normalised(content.mean, content.std)
    session, reference = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (small, full)
    )
    known = json.loads(session.get_modelmeta().custom_metadata_map["calibration"])
    assert known == describe_calibration(data, 256)
    images = parity_images(data)[:7].numpy()
    for size in (1, 2, 7):
        logits, exact = (each.run(None, {"images": images[:size]})[0] for each in (session, reference))
        assert logits.shape == (size, 10)
        assert 0 < np.abs(logits - exact).max() < 0.2 * np.abs(exact).max()


def test_the_choice_is_remembered_and_doctor_shows_it(
    checkpoint: Path, quantize: Quantize, capfd: pytest.CaptureFixture[str]
) -> None:
    quantize(checkpoint)
    (known,) = choices.load().values()
    assert known.chosen in known.tried
    code, shown, _ = quantize(checkpoint)
    assert code == 0
    assert f"{known.chosen} was chosen out of {len(known.tried)} files" in shown
    assert shown.count("building ") == 3  # torch and ONNX Runtime in float, and the one that won
    assert quantize(checkpoint, "--remeasure")[1].count("building ") == 5
    main(["doctor"])
    assert known.chosen in capfd.readouterr().out
    choices.place().write_text("{broken")
    assert choices.load() == {}


def test_a_model_that_halts_tokens_and_training(run: Run, tmp_path: Path, quantize: Quantize) -> None:
    path = Path(shutil.copy(run.checkpoint("avit"), tmp_path / "halting.pth"))
    code, shown, _ = quantize(path, "--mode", "qat", "--epochs", "1", "--batch-size", "3")
    assert code == 0
    assert "onnxruntime: trained" in shown
    assert loading.restore(path.with_suffix(".qat.pth"))[1].name == "avit_qat"
    assert integer_products(path.with_suffix(".int8.onnx")) == (8, 0)
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
        (["--runtime", "tensorrt"], "--runtime 'tensorrt' is not known"),
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
    assert "ranges come from 8 images: fewer than 32" in quantize(checkpoint, "--calibration-images", "8")[1]


def made(name: str, speed: float, drop: float, sqnr: float, method: Int8 | None) -> Judged:
    """A measured file; `speed` over the first."""
    ort = get("onnxruntime")
    timing = Timing({each: [1 / speed] for each in range(3)})
    entry = Entry(Lowering(ort, method), Path(name), Inspection("int8"), timing=timing)
    return Judged(entry, 0.9 - drop, drop, 0.001 if drop else 1.0, 1.0, sqnr, (speed, speed, speed), 1)


def test_what_is_kept() -> None:
    plain = made("plain", 2.0, 0.0, 99.0, None)
    fast, near = made("fast", 4.0, 0.0, 30.0, Int8()), made("near", 3.95, 0.0, 40.0, Int8(activations="tensor"))
    lossy = made("lossy", 9.0, 0.2, 10.0, Int8(signed=True))
    assert choose([plain, fast], None)[0] is fast
    assert choose([plain, fast, near], None)[0] is near  # no slower to speak of, and nearer to the float model
    assert choose([plain, fast, lossy], None)[0] is fast  # 20 points lost, and no accident
    assert choose([plain, fast, lossy], 0.3)[0] is lossy
    kept, why = choose([plain, lossy], 0.1)
    assert kept is None
    assert "loses at most 10 points" in why
    assert "what it saves is size" in choose([made("plain", 5.0, 0.0, 99.0, None), fast], None)[1]
