"""What fine-tuning brings back is scored before its first step and after each epoch, and shown."""

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_rows import bare
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from baselines import train
from baselines.data import Data, TensorSplit
from baselines.distributed import World
from baselines.macs import dense_macs
from baselines.train import TrainConfig, fit
from baselines.vit import VisionTransformer, ViTConfig
from compress import variant
from compress.measure import statistics
from compress.methods import AViT, Method, Narrow, TopK
from compress.training import finetuning
from compress.training.curves import Curves
from compress.training.finetuning import score
from reports import Row
from reports.markdown import report_md
from reports.page import report_html
from reports.plots import PLOTS
from reports.recovery import recoveries, wilson

CPU = torch.device("cpu")
CONFIG = ViTConfig(
    image_size=(8, 8), channels=1, patch_size=2, dim=16, depth=4, heads=2, mlp_dim=24, classes=2, dropout=0.1
)
TRAIN = TrainConfig(epochs=3, batch_size=8, lr=1e-2, warmup_epochs=1, ema=0.9, flip=False, validation=0.25)


def halves(n: int = 64) -> Data:
    """Images whose left or right half is brighter; of the test images, an odd number, less clearly so."""
    labels, generator = torch.arange(n) % 2, torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (n, 1, 8, 8), dtype=torch.uint8, generator=generator)
    harder = images[: n - 1].clone()
    for pixels, light in ((images, 150), (harder, 8)):
        side = labels[: len(pixels)]
        pixels[side == 0, :, :, :4] += light
        pixels[side == 1, :, :, 4:] += light
    return Data(
        "halves", ("left", "right"), TensorSplit(images, labels), TensorSplit(harder, labels[:-1]), (0.4,), (0.3,)
    )


def make_model() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(CONFIG).eval()


@torch.inference_mode()
def accuracy(model: VisionTransformer, data: Data) -> float:
    right = [model(images).argmax(1) == labels for images, labels in data.batches(data.test, 16, CPU)]
    return torch.cat(right).double().mean().item()


def figures(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Records without what depends on the clock."""
    return [
        {name: value for name, value in record.items() if name not in ("seconds", "images_per_s")} for record in history
    ]


class Spoiler:
    """A probe that notes what it is given, and then spoils it."""

    def __init__(self) -> None:
        self.heads: list[Tensor] = []

    def __call__(self, model: VisionTransformer) -> dict[str, float]:
        self.heads.append(model.head.weight.detach().clone())
        for parameter in model.parameters():
            torch.nn.init.zeros_(parameter)
        return {"calls": float(len(self.heads)), "largest": self.heads[-1].abs().max().item()}


class Kept:
    """A snapshot in memory that stops the training when it has been saved so many times, as a kill would."""

    def __init__(self, saves: int = 0):
        self.state: dict[str, Any] | None = None
        self.saves = saves

    def load(self) -> dict[str, Any] | None:
        return copy.deepcopy(self.state)

    def save(self, state: dict[str, Any]) -> None:
        self.state, self.saves = copy.deepcopy(state), self.saves - 1
        if self.saves == 0:
            raise KeyboardInterrupt


def test_a_probe_sees_start_and_every_epoch_and_changes_nothing() -> None:
    probe, seen, plain = Spoiler(), make_model(), make_model()
    history = fit(seen, halves(), TRAIN, device=CPU, seed=3, probe=probe)
    without = fit(plain, halves(), TRAIN, device=CPU, seed=3)
    assert torch.equal(probe.heads[0], make_model().head.weight)
    assert [record["calls"] for record in history] == [2, 3, 4]
    assert history[0]["before_calls"] == 1
    assert not any(name.startswith("before_") for record in history[1:] for name in record)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in seen.state_dict().items())
    added = {"calls", "largest", "before_calls", "before_largest"}
    assert [{name: record[name] for name in record.keys() - added} for record in figures(history)] == figures(without)
    idle = Spoiler()
    assert fit(make_model(), halves(), TRAIN.model_copy(update={"epochs": 0}), device=CPU, seed=3, probe=idle) == []
    assert idle.heads == []


@pytest.mark.parametrize("saves", [2, 6, 9])  # of 6 steps an epoch: in the first, at its end, in the second
def test_a_resumed_training_has_the_same_figures(saves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "SNAPSHOT_S", 0.0)  # after every step
    data, kept = halves(), Kept(saves)
    calls: list[int] = []

    def probe(model: VisionTransformer) -> dict[str, float]:
        calls.append(1)
        return score(model, data, CPU)

    whole = fit(make_model(), data, TRAIN, device=CPU, seed=3, probe=probe)
    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), data, TRAIN, device=CPU, seed=3, probe=probe, snapshot=kept)
    calls.clear()
    again = fit(make_model(), data, TRAIN, device=CPU, seed=3, probe=probe, snapshot=kept)
    assert figures(again) == figures(whole)
    assert {"before_top1", "before_macs", "top1", "macs"} <= again[0].keys()
    assert len(calls) == (3 if saves < 6 else 2)  # the start is not looked at twice


def calibration(data: Data) -> Tensor:
    return next(data.batches(data.train, 64, CPU))[0]


def tuned(
    start: VisionTransformer, method: Method, data: Data, settings: TrainConfig = TRAIN
) -> tuple[VisionTransformer, list[dict[str, float]]]:
    given: dict[str, Any] = {"teacher": start, "training": settings, "device": CPU, "seed": 1, "title": "test"}
    return finetuning.apply(start, [], [method], data, calibration=[calibration(data)], **given)


def test_a_fine_tuning_begins_with_the_model_that_was_there() -> None:
    data, start = halves(), make_model()
    fit(start, data, TRAIN, device=CPU, seed=0)
    dense = {"before_top1": accuracy(start, data), "before_macs": float(dense_macs(CONFIG))}
    assert 0.5 < dense["before_top1"] < 1
    history = tuned(start, TopK(keep=1.0), data)[1]
    assert {name: history[0][name] for name in dense} == dense
    assert [record["macs"] for record in history] == [dense["before_macs"]] * 3
    assert all(record["top1"] * 63 == pytest.approx(round(record["top1"] * 63)) for record in history)

    pruned = TopK(keep=0.5, at=(1,))
    counted = score(variant.prepare(start, [pruned]), data, CPU)
    history = tuned(start, pruned, data)[1]
    assert {name: history[0][f"before_{name}"] for name in counted} == counted
    assert counted["top1"] == accuracy(variant.prepare(start, [pruned]), data)
    block = {n: (n * 4 * 16 * 16 + 2 * 16 * n * n, n * 2 * 16 * 24) for n in (17, 9)}  # attention, MLP at n tokens
    blocks = sum(block[17]) + block[17][0] + block[9][1] + 2 * sum(block[9])
    assert counted["macs"] == 16 * 4 * 16 + 16 * 2 + blocks + 17 * 16  # patches, head, one row of attention


def test_each_figure_is_of_a_calibrated_model_and_new_weights_have_none() -> None:
    data, start = replace(halves(), test=halves().train), make_model()
    settings = TRAIN.model_copy(update={"epochs": 1, "validation": 0.0})
    halting = AViT(target_macs=0.6)
    begun = variant.prepare(start, [halting])
    assert score(begun, data, CPU)["macs"] > 0.6 * dense_macs(CONFIG)
    halting.calibrate(begun, [calibration(data)])
    before = score(begun, data, CPU)
    assert before["macs"] <= 0.6 * dense_macs(CONFIG)
    model, (record,) = tuned(start, halting, data, settings)
    assert {name: record[f"before_{name}"] for name in before} == before
    after = score(model, data, CPU)
    assert {name: record[name] for name in after} == after
    assert after["macs"] <= 0.6 * dense_macs(CONFIG)
    assert not {"top1", "before_top1"} & tuned(start, Narrow(macs=0.5), data, settings)[1][0].keys()


class Part(World):
    """One of several processes, whose sums are its own."""

    def sum(self, value: Tensor) -> Tensor:
        return value


def test_processes_share_the_test_images() -> None:
    data, model = halves(), make_model()
    whole, parts = score(model, data, CPU), [score(model, data, CPU, Part(rank, 3)) for rank in range(3)]
    assert all(0 < part["macs"] < whole["macs"] for part in parts)
    for name, value in whole.items():
        assert sum(part[name] for part in parts) == pytest.approx(value)


def tuned_row(variant: str = "topk", epochs: int = 6, **given: Any) -> Row:
    """Begins with 40 %, is at 60 + n % after n epochs, and computes 30 of 50 million."""
    records = [{"epoch": n, "loss": 1.0, "top1": 0.6 + n / 100, "macs": 30e6} for n in range(1, epochs + 1)]
    records[0] |= {"before_top1": 0.4, "before_macs": 31e6}
    return bare(variant=variant, training=records, n_images=1000, top1=0.5, **given)


def test_the_table_holds_what_the_records_say() -> None:
    dense = bare(top1=0.755, n_images=1000, macs_per_image=50e6, training=[{"epoch": 1, "loss": 1.0}])
    rows = [dense, tuned_row(), tuned_row(runtime="onnxruntime"), tuned_row("a|b", epochs=3, dataset="other")]
    page = re.sub(" +", " ", report_md(rows))
    found = page.partition("## Recovery")[2].partition("## Training")[0]
    assert [line.strip("| ").split(" | ") for line in found.splitlines() if line.startswith("| ")][:1] == [
        ["dataset", "variant", "MACs %", "dense %", "after 0 %", "after 1 %", "after 5 %", "last %", "epochs"]
    ]
    assert "| digits | topk | 60.0 | 75.5 | 40.0 | 61.0 | 65.0 | 66.0 | 6 |\n" in found
    assert "| other | a&#124;b | | | 40.0 | 61.0 | | 63.0 | 3 |\n" in found
    assert found.count("| topk |") == 1  # though measured in two runtimes
    assert "seed" not in found
    assert "(recovery.svg)" in page
    assert "<summary>Recovery</summary>" in report_html(rows).decode()
    assert "| topk, seed 1 |" in re.sub(" +", " ", report_md([*rows, tuned_row(seed=1)]))


def test_rows_without_such_records_give_no_section() -> None:
    old = bare(variant="avit", training=[{"epoch": 1, "loss": 1.0, "train_top1": 0.5}], top1=0.5, n_images=100)
    broken = bare(variant="topk", training=[{"epoch": 1, "top1": float("nan"), "before_top1": 0.5}])
    for rows in ([], [old], [broken, bare()]):
        assert recoveries(rows) == []
        assert "Recovery" not in report_md(rows) + report_html(rows).decode()
        assert PLOTS["recovery"].data(rows) == []


@pytest.mark.parametrize(("right", "total"), [(0, 10), (7, 10), (350, 360), (10_000, 10_000)])
def test_the_interval_is_wilsons(right: int, total: int) -> None:
    assert wilson(right / total, total) == pytest.approx(statistics.wilson(right, total), abs=1e-6)


def test_tensorboard_has_the_start_at_step_0_once(tmp_path: Path) -> None:
    times = {"images_per_s": 100.0, "seconds": 2.0}
    for epochs in ((1, 2), (3,)):  # two processes
        with Curves("topk", tmp_path / "training.jsonl", print, tmp_path / "board") as process:
            for epoch in epochs:
                start = {"before_top1": 0.25} if epoch == 1 else {}
                process({"epoch": epoch, "loss": 1.0, "top1": epoch / 4, **times, **start})
    reader = EventAccumulator(str(tmp_path / "board"))
    reader.Reload()
    seen = [(event.step, event.value) for event in reader.Scalars("accuracy/top1")]
    assert seen == [(0, 0.25), (1, 0.25), (2, 0.5), (3, 0.75)]
    assert not [tag for tag in reader.Tags()["scalars"] if "before" in tag]
