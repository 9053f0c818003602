"""Classes that are not equally common: how a set is cut, what is trained on, what is reported."""

import csv
import io
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY
from made_rows import bare

from baselines.data import Data, TensorSplit
from baselines.decoding import FileSplit
from baselines.distributed import World
from baselines.errors import InputError
from baselines.feed import Batch, Feed
from baselines.losses import Classification
from baselines.recipe import TrainConfig
from baselines.sources import load
from baselines.subset import Part, Subset, cut, manifest
from baselines.validation import hold_out
from compress import config
from compress.checkpoints import checkpoint
from compress.cli import main
from compress.training.build import make_baseline
from compress.training.run import open_run
from reports import parse_rows
from reports.compare import render_comparison
from reports.markdown import report_md

CPU = torch.device("cpu")
KNOWN = [4435, 4189, 3065, 4191, 4513, 3717, 3513, 3249, 2685, 2023]


def loss_of(logits: list[list[float]], labels: list[int], counts: list[int] | None = None, **given: Any) -> float:
    settings = TrainConfig(**{"label_smoothing": 0, **given})
    batch = Batch(torch.empty(0), torch.tensor(labels), torch.tensor(labels), None)
    loss = Classification(settings, torch.tensor(counts or [1] * len(logits[0])), CPU)
    return loss(torch.tensor(logits), batch).item()


def labelled(counts: list[int], seed: int = 0) -> Data:
    """A data set of so many images of each class, in disorder, whose only pixel is the class."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    split = TensorSplit(labels.to(torch.uint8).view(-1, 1, 1, 1), labels)
    return Data("made", tuple(f"class {i}" for i in range(len(counts))), split, split, (0.0,), (1.0,))


def listed(text: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.decode())))


def test_focal_loss_counts_the_unsure() -> None:
    logits, labels = [[2.0, -1.0, 0.5], [0.0, 0.3, 0.1]], [0, 2]
    plain = loss_of(logits, labels, label_smoothing=0.1)
    assert loss_of(logits, labels, label_smoothing=0.1, loss="focal", focal_gamma=0) == plain
    assert loss_of([[0.0, 0.0]], [1], loss="focal", focal_gamma=2) == pytest.approx(0.25 * math.log(2))
    three_to_one = [[math.log(3), 0.0]]  # p = 3/4
    assert loss_of(three_to_one, [0], loss="focal", focal_gamma=3) == pytest.approx(math.log(4 / 3) / 64)
    certain, zero = torch.tensor([[200.0, 0.0]], requires_grad=True), torch.tensor([0])
    focal = Classification(TrainConfig(loss="focal", focal_gamma=0.5), torch.tensor([1, 1]), CPU)
    focal(certain, Batch(torch.empty(0), zero, zero, None)).backward()
    assert certain.grad is not None
    assert certain.grad.isfinite().all()


def test_class_weights_are_inverse_to_the_sizes_and_one_on_average() -> None:
    counts = torch.tensor([30, 10, 0])
    weights = Classification(TrainConfig(class_weights=True), counts, CPU).weights
    assert weights[:2].tolist() == pytest.approx([2 / 3, 2])
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    even = [[0.0, 0.0]]
    assert loss_of(even, [1], [30, 10], class_weights=True) == pytest.approx(2 * math.log(2))
    assert Classification(TrainConfig(), counts, CPU).weights.tolist() == [1, 1, 1]


def test_hard_example_mining_keeps_the_images_of_highest_loss() -> None:
    odds = [1, 3, 7, 15, 31]  # for the right class; its loss is log(1 + 1 / odds)
    logits = [[math.log(odd), 0.0] for odd in odds]
    assert loss_of(logits, [0] * 5, ohem=0.4) == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert loss_of(logits, [0] * 5, ohem=0.01) == pytest.approx(math.log(2))
    mixed = Batch(torch.empty(0), torch.tensor([0, 0]), torch.tensor([1, 0]), torch.tensor([0.25, 0.25]))
    mined = Classification(TrainConfig(label_smoothing=0, ohem=0.5), torch.tensor([1, 1]), CPU)
    assert mined(torch.tensor(logits[1:3]), mixed).item() == pytest.approx(
        0.25 * math.log(4 / 3) + 0.75 * math.log(4)  # the first, mixed with an image of the other class
    )


def test_balanced_sampling_draws_all_classes_equally_often() -> None:
    data, drawn = labelled([1600, 300, 100]), {}
    for sampling in ("uniform", "balanced"):
        settings = TrainConfig(sampling=sampling, batch_size=100, crop_padding=0, flip=False)
        feed = Feed(data, torch.arange(2000), settings, CPU, 0, World())
        drawn[sampling] = torch.cat([batch.labels for batch in feed.epoch(0)]).bincount()
    assert drawn["uniform"].tolist() == [1600, 300, 100]
    assert drawn["balanced"].sum() == 2000
    assert (drawn["balanced"] - 2000 / 3).abs().max() < 4 * (2000 * 2 / 9) ** 0.5  # four standard deviations


def test_the_known_setting_of_cifar10() -> None:
    settings = config.read(ROOT / "configs/imbalance/plain.toml")
    train, test = labelled([5000] * 10), labelled([1000] * 10, seed=1)
    whole = replace(train, test=test.test)
    assert settings.subset is not None
    data = cut(whole, settings.subset)
    assert data.name == "made (35580 + 4870 images)"
    assert data.train.labels.bincount().tolist() == KNOWN
    assert data.test.labels.bincount().tolist() == [487] * 10
    images = next(data.train.fetch([torch.tensor([0, 35579])], CPU)).flatten()
    assert images.tolist() == data.train.labels[[0, 35579]].tolist()

    lines = listed(manifest(data, settings.train.validation))
    counted = Counter((line["split"], line["class"]) for line in lines)
    for label, count in enumerate(KNOWN):
        held = counted["validation", f"class {label}"]
        assert abs(held - count / 10) < 1
        assert counted["train", f"class {label}"] + held == count
        assert counted["test", f"class {label}"] == 487
    assert sum(line["split"] == "validation" for line in lines) == 3558
    assert len({(line["split"] == "test", line["index"]) for line in lines}) == 35580 + 4870
    for line in lines:
        split = whole.test if line["split"] == "test" else whole.train
        assert f"class {split.labels[int(line['index'])]}" == line["class"]


def test_a_cut_is_always_the_same_and_never_taken_for_the_whole() -> None:
    whole, subset = labelled([50, 40]), Subset(train=(20, 10))
    data, again = cut(whole, subset), cut(labelled([50, 40]), subset)
    assert manifest(data, 0.2) == manifest(again, 0.2)
    assert data.fingerprint == again.fingerprint != whole.fingerprint
    assert len(data.test.labels) == 90  # no number: all
    other = cut(whole, Subset(train=(20, 10), seed=1))
    assert other.fingerprint != data.fingerprint
    assert manifest(other, 0.2) != manifest(data, 0.2)


def test_files_are_listed_with_their_paths() -> None:
    paths = [Path(f"pets/{i}, old\udce9.png") for i in range(20)]
    split = FileSplit(paths, torch.arange(20) % 2, (8, 8), 3)
    pets = Data("folder:pets", ("cat", "dog"), split, split, (0.0,) * 3, (1.0,) * 3)
    data = cut(pets, Subset(train=(4,), test=(3,)))
    lines = listed(manifest(data, 0))
    assert Counter((line["split"], line["class"]) for line in lines) == {
        ("train", "cat"): 4, ("train", "dog"): 4, ("test", "cat"): 3, ("test", "dog"): 3,
    }  # fmt: skip
    assert all(line["path"] == f"pets/{line['index']}, old\\udce9.png" for line in lines)


def test_what_a_data_set_does_not_have_is_refused() -> None:
    for subset, sentence in (
        (Subset(train=(5, 6)), "train asks for 6 images of class 'class 1', but made has 5; ask for no more"),
        (Subset(test=(6,)), "test asks for 6 images of class 'class 0', but made has 5; ask for no more"),
        (Subset(train=(1, 2, 3)), "train gives 3 numbers, but made has 2 classes (class 0, class 1, ...)"),
    ):
        with pytest.raises(InputError, match=re.escape(f"[subset] {sentence}")):
            cut(labelled([5, 5]), subset)


@pytest.mark.parametrize("fraction", [0, 0.1, 0.37, 0.9])
def test_each_class_gives_its_share_to_validation(fraction: float) -> None:
    counts = [701, 3, 299, 40]
    labels = labelled(counts).train.labels
    train, held = hold_out(labelled(counts).train, fraction)
    assert len(held) == round(1043 * fraction)
    assert torch.cat([train, held]).sort().values.tolist() == list(range(1043))
    share = torch.tensor(counts) * len(held) / 1043
    assert (labels[held].bincount(minlength=4) - share).abs().max() < 1


def test_macro_recall_counts_every_class_the_same() -> None:
    row = bare(classes=["a", "b", "c"], class_recall=[1.0, 0.5, None], top1=0.95, n_images=100)
    assert row.macro_recall == 0.75
    assert bare().macro_recall is None
    better = replace(row, class_recall=[0.9, 0.9, None], top1=0.9)
    page = re.sub(" +", " ", report_md([row, replace(better, variant="avit")]))
    assert "| *all images: top-1* | | 95.0 | 90.0 |\n| *all classes: macro recall* | | 75.0 | 90.0 |" in page
    page = re.sub(" +", " ", render_comparison({"a": [row], "b": [better]})["comparison.md"].decode())
    assert re.search(r"\| 95\.0 \| 90\.0 \| -5\.00 \|[^|]+\| 75\.0 \| 90\.0 \|", page)


SMALL = re.sub("epochs = 8", "epochs = 1\nvalidation = 0.1", TINY.replace("depth = 2", "depth = 1"))
SUBSET = "\n[subset]\ntrain = [100, 90, 80, 70, 60, 50, 40, 30, 20, 10]\ntest = 30\n"


@pytest.mark.usefixtures("no_plots")
def test_a_bench_of_a_subset(tmp_path: Path) -> None:
    file, out = tmp_path / "cut.toml", tmp_path / "run"
    file.write_text(SMALL + SUBSET)
    args = ["bench", "--config", str(file), "--variants", "vit", "--runtime", "torch", "--device", "cpu"]
    args += ["--threads", "1", "--batch-size", "1", "--seconds", "0.1", "--no-plain", "--out", str(out)]
    assert main(args) == 0
    (row,) = parse_rows((out / "rows.jsonl").read_text(), "rows.jsonl")
    assert (row.dataset, row.n_images) == ("digits (550 + 300 images)", 300)
    assert row.macro_recall == pytest.approx(row.top1)  # test classes are equally common
    assert [sum(line) for line in row.confusion or []] == [30] * 10
    page = (out / "report.md").read_text()
    assert all(re.search(rf"^\| {digit} +\| +30 \|", page, re.MULTILINE) for digit in range(10))
    assert "*all classes: macro recall*" in page

    whole = load("digits", (8, 8), 1)
    lines = listed((out / "manifest.csv").read_bytes())
    assert Counter(line["split"] for line in lines) == {"train": 495, "validation": 55, "test": 300}
    for line in lines:
        split = whole.test if line["split"] == "test" else whole.train
        assert str(split.labels[int(line["index"])].item()) == line["class"]

    made = next(out.glob("models/vit-*/best_vit_model.pth"))
    assert checkpoint.load(made).dataset == "digits"  # what --data takes
    assert main(["export", str(made)]) == 0


def test_models_of_the_subset_and_of_the_whole_lie_apart(tmp_path: Path) -> None:
    file = tmp_path / "cut.toml"
    places = []
    for text in (SMALL, SMALL + SUBSET, SMALL + SUBSET.replace("test = 30", "test = 20")):
        file.write_text(text.replace("epochs = 1\n", "epochs = 0\n"))
        opened = open_run(config.read(file), tmp_path / "run", CPU, print)
        assert isinstance(opened.data.train, Part) == ("subset" in text)
        places.append(make_baseline(opened).path)
    assert len(set(places)) == 3


def test_a_subset_that_cannot_be_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cut.toml"
    for subset, words in (
        ("train = 500", "[subset] train asks for 500 images of class '0', but digits has 142; ask for no more"),
        ("train = [1, 0]", "'subset.train.1'"),
        ("trian = 5", "'subset.trian' is not a known key"),
    ):
        file.write_text(f"{SMALL}\n[subset]\n{subset}\n")
        assert main(["train", "--config", str(file), "--out", str(tmp_path / "run")]) == 2
        assert words in " ".join(capsys.readouterr().err.split())


def test_each_file_has_one_idea() -> None:
    ideas = {"oversampling": ["sampling"], "class_weights": ["class_weights"], "focal": ["loss"], "ohem": ["ohem"]}
    plain = config.read(ROOT / "configs/imbalance/plain.toml")
    for name, keys in (ideas | {"pretraining": []}).items():
        other = config.read(ROOT / f"configs/imbalance/{name}.toml")
        assert (other.data, other.subset, other.model) == (plain.data, plain.subset, plain.model)
        assert [key for key, value in other.train if value != getattr(plain.train, key)] == keys
