"""The command lines as a person types them, from nothing to a table, on a model that trains in seconds."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import MADE, ROOT, TINY, Run
from PIL import Image

from baselines.sources import load
from compress import __version__, loading, variant
from compress.cli import main
from compress.runtimes.ort_session import BoundSession, OrtSession
from reports import Row, parse_rows

CPU = torch.device("cpu")
PLOTS = ("pareto", "pareto_cost", "realised", "tokens", "latency", "recall", "confusion", "recovery", "training")
PICTURES = ("halting_avit.png", "halting_avit_int8.png", "rollout_vit.png", "rollout_avit.png")
PICTURES += tuple(f"predictions_{name}.png" for name in ("vit", "avit", "avit_int8"))
REPORT = ("report.md", "report.html", "rows.csv", "table.tex", *PICTURES)
REPORT += tuple(f"{name}.{kind}" for name in PLOTS for kind in ("png", "svg"))


def rows_of(out: Path) -> list[Row]:
    return parse_rows((out / "rows.jsonl").read_text(), "rows.jsonl")


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from compress.cli import main; "
        "assert main(['--help']) == main([]) == main(['bench', '--help']) == main(['bench', '-h']) == 0; "
        "assert not {'torch', 'onnxruntime', 'matplotlib', 'reports.page'} & set(sys.modules); "
        "assert main(['bench', '--variants', 'int8_avit']) == 2; "  # and a start needs little beside torch
        "assert not {'torch._dynamo', 'torchvision', 'scipy', 'onnx', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    for command in (
        "bench",
        "train",
        "pretrain",
        "distill",
        "sweep",
        "prune",
        "halt",
        "quantize",
        "search",
        "export",
        "report",
        "doctor",
    ):
        assert f" {command} " in done.stdout


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version(option: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([option]) == 0
    assert capfd.readouterr().out == f"compress {__version__}\n"


def test_a_shell_completes_commands_and_options() -> None:
    for words, wanted in (("compress quan", "quantize"), ("compress quantize --calib", "--calibration-images")):
        asked = {"_COMPRESS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        command = [sys.executable, "-m", "compress"]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | asked, capture_output=True, text=True, check=False)
        assert wanted in done.stdout.split()


# --- bench


def test_a_bench_writes_the_model_the_rows_and_the_report(run: Run) -> None:
    rows = rows_of(run.out)
    assert [(row.variant, row.runtime, row.executed) for row in rows] == MADE
    assert (run.out / "best_vit_model.pth").read_bytes() == run.checkpoint().read_bytes()
    assert (run.out / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert (run.out / "pareto.svg").read_text().rstrip().endswith("</svg>")
    assert len(list(csv.DictReader((run.out / "rows.csv").read_text().splitlines()))) == len(rows)
    report = (run.out / "report.md").read_text()
    for row in rows:
        assert row.variant in report
        assert row.variant in run.stdout
    known = {*REPORT, "rows.jsonl", "best_vit_model.pth", "models", "config.toml"}
    assert {path.name for path in run.out.iterdir()} == known
    assert not [path for path in run.out.rglob("*") if path.suffix == ".tmp" or path.name == "state.pt"]


def test_every_row_is_whole_and_true(run: Run) -> None:
    rows = rows_of(run.out)
    dense = {row.runtime: row for row in rows if row.variant == "vit"}
    for row in rows:
        base = dense[row.runtime]
        assert row.failed is None
        assert len(row.latency_samples_s) >= 15
        assert min(row.latency_samples_s) > 0
        assert row.n_images == 360
        assert 0 <= row.top1_low <= row.top1 <= row.top1_high <= 1
        assert row.top1_low < row.top1_high
        assert row.speedup_low <= row.speedup <= row.speedup_high
        assert row.macs_per_image <= base.macs_per_image
        assert row.ceiling == pytest.approx(base.macs_per_image / row.macs_per_image)
        assert row.ceiling >= 1
        assert row.file_bytes == (run.out / row.artifact).stat().st_size
        assert row.peak_memory_bytes > 10e6
        assert (row.batch_size, row.threads, row.device, row.seed) == (4, 1, "cpu", 0)
    for row in dense.values():
        assert (row.speedup, row.speedup_low, row.speedup_high, row.ceiling) == (1, 1, 1, 1)
    counted = dense["torch"].macs_counters
    assert set(counted.values()) == {dense["torch"].macs_per_image}
    assert len(counted) == 4
    once = [index in (0, 2, 4) for index in range(len(rows))]
    assert [bool(row.examples) for row in rows] == [bool(row.confusion) for row in rows] == once
    for row in (rows[0], rows[2], rows[4]):  # what is long stands once for each variant
        assert np.trace(row.confusion) == round(row.top1 * 360)
        assert np.sum(row.confusion) == 360
        assert row.class_recall == pytest.approx([row.confusion[i][i] / sum(row.confusion[i]) for i in range(10)])
        assert len(row.examples) == 16
        assert len(row.training or []) == {"vit": 8, "avit": 2, "avit_int8": 0}[row.variant]
    avit, int8 = rows[2], rows[-1]
    assert avit.macs_promised <= avit.macs_per_image < 0.8 * dense["torch"].macs_per_image
    assert rows[4].macs_per_image == pytest.approx(avit.macs_per_image, rel=0.05)  # rounding moves a halt now and then
    assert int8.params == avit.params == dense["torch"].params + 32  # the gate between the two blocks
    assert int8.file_bytes < avit.file_bytes
    assert int8.top1 == pytest.approx(avit.top1, abs=0.05)
    for torch_row, ort_row in (rows[:2], rows[2:4]):  # one model, two engines: at most a tie falls differently
        assert abs(torch_row.top1 - ort_row.top1) < 1.5 / 360
    assert rows[0].top1 > 0.5


def test_a_second_run_does_nothing_again_and_another_measurement_is_added(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    out = tmp_path / "run"
    shutil.copytree(run.out, out)
    args = ["bench", *run.args[:-1], str(out)]
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert main(args) == 0
    said, error = capfd.readouterr()
    assert error == ""
    assert not any(word in said for word in ("training", "calibrating", "building", "scoring", "timing"))
    assert "measured before" in said
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before

    request.getfixturevalue("no_plots")
    args += ["--variants", "vit", "--runtime", "onnxruntime"]
    assert main(args) == 0
    assert "training" not in capfd.readouterr().out
    measured = rows_of(out)
    assert len(measured) == len(MADE) + 1  # another group: who ran in turns with whom belongs to it
    assert main([*args, "--remeasure"]) == 0
    assert (out / "rows.jsonl").read_bytes().startswith(before[out / "rows.jsonl"])
    assert len(rows_of(out)) == len(MADE) + 2
    assert rows_of(out)[:-1] == measured


def test_a_report_is_made_again_from_its_rows(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copy(run.out / "rows.jsonl", tmp_path)
    assert main(["report", str(tmp_path)]) == 0
    assert "avit_int8" in capfd.readouterr().out
    for name in REPORT:
        assert (tmp_path / name).read_bytes() == (run.out / name).read_bytes(), name


def test_a_deleted_copy_of_the_baseline_comes_back(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run.out, out)
    (out / "best_vit_model.pth").unlink()
    assert main(["train", *run.args[:2], "--threads", "1", "--out", str(out)]) == 0
    assert (out / "best_vit_model.pth").read_bytes() == run.checkpoint().read_bytes()


@pytest.mark.usefixtures("no_plots")
def test_a_baseline_of_ones_own(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "mine.pth"
    shutil.copy(run.checkpoint(), own)
    args = ["--checkpoint", str(own), "--variants", "vit", "--runtime", "torch", "--device", "cpu", "--threads", "1"]
    args += ["--no-plain", "--batch-size", "2", "--seconds", "0.1", "--out", str(tmp_path / "out")]
    assert main(["bench", *args]) == 0
    assert "training" not in capfd.readouterr().out
    (row,) = rows_of(tmp_path / "out")
    assert row.top1 == rows_of(run.out)[0].top1
    assert row.config["model"]["dim"] == 32  # of the checkpoint, not of the default settings


# --- export and quantize


def real_images(checkpoint: Path) -> tuple[torch.nn.Module, np.ndarray]:
    model, which, content = loading.restore(checkpoint)
    data = load(content.dataset, content.config.image_size, content.config.channels)
    data = data.with_normalization(content.mean, content.std)
    images = next(iter(data.batches(data.test, 10, CPU)))[0]
    return variant.convert(model, which.methods), images.numpy()


def test_export(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "deep" / "avit.onnx"
    assert main(["export", str(run.checkpoint("avit")), "--out", str(path)]) == 0
    assert "same class on 100.0%" in capfd.readouterr().out
    assert {each.name for each in path.parent.iterdir()} == {path.name, f"{path.name}.json"}
    model, images = real_images(run.checkpoint("avit"))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    start = 0
    for size in (1, 2, 7):
        batch = images[start : start + size]
        start += size
        with torch.inference_mode():
            expected = model(torch.from_numpy(batch)).numpy()
        np.testing.assert_allclose(session.run(None, {"images": batch})[0], expected, atol=1e-4, rtol=1e-4)


# --- an end in the middle of training


def stop_after_an_epoch(args: list[str], out: Path, how: signal.Signals) -> tuple[int, str]:
    """Starts a training, waits until it has saved its state once (more), and ends it; exit code and stderr."""
    before = [path.stat().st_mtime_ns for path in out.rglob("state.pt")]
    process = subprocess.Popen(
        [sys.executable, "-m", "compress", *args, str(out)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    with process:
        deadline = time.monotonic() + 120
        while [path.stat().st_mtime_ns for path in out.rglob("state.pt")] == before:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(how)
        said = process.communicate()[1]
    return process.returncode, said


def test_a_stopped_and_then_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    epochs = 30
    config, out = tmp_path / "long.toml", tmp_path / "stopped"
    small = TINY.replace("patch_size = 2", "patch_size = 4").replace("depth = 2", "depth = 1")
    config.write_text(small.replace("epochs = 8", f"epochs = {epochs}"))
    args = ["train", "--config", str(config), "--device", "cpu", "--threads", "1", "--out"]
    stopped = "stopped; run the same command again to resume\n"
    assert stop_after_an_epoch(args, out, signal.SIGINT) == (130, stopped)
    assert stop_after_an_epoch(args, out, signal.SIGKILL) == (-signal.SIGKILL, "")
    (state,) = out.rglob("state.pt")
    history = torch.load(state, weights_only=True)["history"]
    assert 1 < len(history) < epochs
    assert not (out / "best_vit_model.pth").exists()
    half = state.with_name(".state.pt.1.tmp")
    half.write_bytes(b"as a kill leaves it")

    assert main([*args, str(out)]) == 0
    assert main([*args, str(tmp_path / "whole")]) == 0
    resumed, whole = (loading.restore(each / "best_vit_model.pth")[2].state for each in (out, tmp_path / "whole"))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert not state.exists()
    assert not half.exists()
    record = [json.loads(line) for line in state.with_name("training.jsonl").read_text().splitlines()]
    assert len(record) == epochs
    assert record[: len(history)] == history  # seconds and all: what was done was not done again


# --- images of one's own


@pytest.mark.usefixtures("no_plots")
def test_a_folder_of_images(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One image a class to learn from, and classes told apart by their colour: every test image is got right."""
    chance = np.random.default_rng(0)
    colours = {"blue": (30, 40, 220), "green": (20, 200, 60), "red": (210, 30, 20)}
    for part, count in (("train", 1), ("test", 4)):
        for name, colour in colours.items():
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(np.array(colour) + chance.normal(0, 10, (12, 10, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    config = tmp_path / "colours.toml"
    config.write_text(
        tiny.read_text().replace("epochs = 8", "epochs = 60").replace("batch_size = 64", "batch_size = 3")
    )
    out = tmp_path / "out"
    args = ["--config", str(config), "--data", f"folder:{tmp_path / 'images'}", "--device", "cpu", "--threads", "1"]
    args += ["--variants", "vit", "--runtime", "onnxruntime", "--batch-size", "3", "--seconds", "0.1"]
    assert main(["bench", *args, "--out", str(out)]) == 0
    assert "training vit on folder:" in capfd.readouterr().out
    (row,) = rows_of(out)
    assert (row.n_images, row.top1) == (12, 1)
    content = loading.restore(out / "best_vit_model.pth")[2]
    assert content.classes == ("blue", "green", "red")
    assert content.config.channels == 3
    assert content.mean == pytest.approx((0.34, 0.35, 0.39), abs=0.02)
    assert content.config.classes == 3


def test_inputs_that_stay_on_the_device_give_the_same_answers(run: Run) -> None:
    """The way of a GPU, walked on a CPU."""
    (graph,) = run.out.glob("models/avit-*/avit.onnx")
    _, images = real_images(run.checkpoint("avit"))
    sessions = OrtSession(graph, "cpu", 1), BoundSession(graph, "cpu", 1)
    for size in (1, 3):
        plain, bound = (each.get(each.run(each.put(images[:size]))) for each in sessions)
        np.testing.assert_array_equal(plain, bound)
    assert sessions[1].peak_memory_bytes() is None
