"""What stands beside a compressed model without being asked for, and what a bench can be asked for beside its table."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Run

from baselines.device import fast_bf16
from baselines.macs import dense_macs
from baselines.vit import VisionTransformer, ViTConfig
from compress import loading, variant
from compress.cli import main
from compress.evaluate import harness
from compress.methods import Bf16, Narrow
from compress.methods.narrow import narrower
from reports import parse_rows

GEOMETRIES = [
    ViTConfig(),
    ViTConfig(image_size=8, patch_size=1, channels=1, dim=128, depth=6, heads=2, mlp_dim=512, tokenizer="conv"),
    ViTConfig(image_size=224, patch_size=16, dim=384, depth=12, heads=6, mlp_dim=1536, classes=1000),
    ViTConfig(dim=64, depth=3, heads=4, mlp_dim=64, pool="mean"),
]


@pytest.mark.parametrize("config", GEOMETRIES, ids=lambda c: f"{c.image_size[0]}-{c.dim}")
@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_a_narrow_model_costs_what_it_should(config: ViTConfig, share: float) -> None:
    small = narrower(config, share)
    assert dense_macs(small) / dense_macs(config) == pytest.approx(share, rel=0.03)
    assert small.dim <= config.dim
    assert small.dim % (8 * small.heads) == 0
    changed = {name for name, value in small if value != getattr(config, name)}
    assert changed <= {"dim", "mlp_dim"}


def test_bf16_rounds_the_weights_and_answers_in_float() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(ViTConfig(dim=32, depth=2, heads=2, mlp_dim=64)).eval()
    images = torch.randn(5, 3, 32, 32)
    rounded = variant.prepare(model, [Bf16()])
    assert {p.dtype for p in rounded.parameters()} == {torch.bfloat16}
    logits, exact = rounded(images), model(images)
    assert logits.dtype == torch.float32
    assert 0 < (logits - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.usefixtures("no_plots")
def test_plain_alternatives_stand_beside(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    shutil.copytree(run.out, out)
    (out / "rows.jsonl").unlink()
    args = [arg for arg in run.args[:-1] if arg != "--no-plain"]
    assert main(["bench", *args, str(out), "--variants", "vit,avit", "--batch-size", "2"]) == 0
    capfd.readouterr()
    rows = {(row.variant, row.runtime): row for row in parse_rows((out / "rows.jsonl").read_text(), "rows.jsonl")}
    bf16 = fast_bf16(torch.device("cpu"))
    assert set(rows) == {
        *((name, runtime) for name in ("vit", "avit", "narrow") for runtime in ("torch", "onnxruntime")),
        ("bf16" if bf16 else "vit", "torch.compile"),
        *([("bf16", "torch")] if bf16 else []),
    }
    dense, avit, narrow = (rows[name, "torch"] for name in ("vit", "avit", "narrow"))
    assert narrow.macs_per_image == pytest.approx(avit.macs_per_image, rel=0.03)
    assert narrow.ceiling == pytest.approx(dense.macs_per_image / narrow.macs_per_image)
    assert narrow.macs_counters
    assert set(narrow.macs_counters.values()) == {narrow.macs_per_image}
    assert narrow.training
    assert dense.training
    assert len(narrow.training) == len(dense.training) == 8  # from scratch, as long as the baseline
    compiled = rows["bf16" if bf16 else "vit", "torch.compile"]
    assert compiled.speedup == (None if bf16 else 1)  # there is no dense model in fp32 in this runtime then
    assert compiled.overall_low < compiled.overall < compiled.overall_high
    assert compiled.first_call_s is not None  # the compiler's work is in it
    if bf16:
        assert rows["bf16", "torch"].executed == "bf16"
        assert rows["bf16", "torch"].file_bytes < 0.6 * dense.file_bytes


def test_a_variant_of_another_geometry_is_saved_and_composes(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run.out, out)
    assert main(["train", *run.args[:2], "--threads", "1", "--variant", "narrow_int8", "--out", str(out)]) == 0
    model, which, content = loading.restore(next(out.glob("models/narrow_int8-*/best_narrow_int8_model.pth")))
    assert which.name == "narrow_int8"
    assert content.config == narrower(run_config(run), Narrow().macs)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def run_config(run: Run) -> ViTConfig:
    return loading.restore(run.checkpoint())[2].config


@pytest.mark.usefixtures("no_plots")
def test_a_break_even_is_looked_for_until_every_variant_has_won(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "LARGEST_BATCH", 8)
    monkeypatch.setattr(harness, "_wins", lambda row: row.batch_size >= 4)  # time is not asserted in a test
    out = tmp_path / "run"
    shutil.copytree(run.out, out)
    (out / "rows.jsonl").unlink()
    args = [*run.args[:-1], str(out), "--variants", "vit,avit", "--runtime", "onnxruntime", "--break-even"]
    assert main(["bench", *args, "--batch-size", "1"]) == 0
    rows = parse_rows((out / "rows.jsonl").read_text(), "rows.jsonl")
    assert [row.batch_size for row in rows] == [1, 1, 2, 2, 4, 4]
    assert "## Break-even" in (out / "report.md").read_text()


@pytest.mark.usefixtures("no_plots")
def test_a_quick_look_says_that_it_is_one(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "quick"
    args = ["--config", str(tiny), "--quick", "--variants", "vit", "--runtime", "onnxruntime", "--threads", "1"]
    assert main(["bench", *args, "--device", "cpu", "--batch-size", "1", "--out", str(out)]) == 0
    (row,) = parse_rows((out / "rows.jsonl").read_text(), "rows.jsonl")
    assert len(row.training or []) == 2
    assert any(warning.startswith("quick: 1 of 2 blocks, trained for 2 of 8 epochs") for warning in row.warnings)


def test_runs_are_compared_and_a_slower_one_fails(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, factor in ((old, 1.0), (new, 1.2)):
        folder.mkdir()
        steady = [0.010 * factor + 1e-6 * (index % 7) for index in range(60)]
        against = {"standing": factor, "standing_low": 0.99 * factor, "standing_high": 1.01 * factor}
        rows = [
            replace(row, latency_samples_s=steady, **against, warnings=[])
            for row in parse_rows((run.out / "rows.jsonl").read_text(), "rows.jsonl")
        ]
        (folder / "rows.jsonl").write_text("".join(row.to_json() + "\n" for row in rows))
    assert main(["report", str(old), str(new)]) == 0
    assert "slower" in capfd.readouterr().out
    assert "vit" in (new / "comparison.md").read_text()
    assert main(["report", str(old), str(new), "--fail-if-slower", "30%"]) == 0
    capfd.readouterr()
    assert main(["report", str(old), str(new), "--fail-if-slower", "5%"]) == 1
    assert capfd.readouterr().out.count("too slow: ") == len(rows)
    assert main(["report", str(new), str(old), "--fail-if-slower", "5%", "--out", str(tmp_path / "there")]) == 0
    assert (tmp_path / "there" / "comparison.md").exists()
    for wrong, says in (
        (["report", str(old), "--fail-if-slower", "5%"], "give the run to compare with"),
        (["report", str(old), str(new), "--fail-if-slower", "5x"], "is not a share"),
        (["report", str(old), str(tmp_path / "empty")], "holds no rows"),
        (["report", str(old), str(old)], "named twice"),
    ):
        assert main(wrong) == 2
        assert says in capfd.readouterr().err
