"""A checkpoint's classes are those it names; where it names none, in the order that labelled images know."""

import argparse
from pathlib import Path

import pytest
import timm
import torch
from timm.data.readers.reader_image_folder import find_images_and_targets
from torch import Tensor

from baselines.data import Data, TensorSplit
from baselines.vit import VisionTransformer, ViTConfig
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import Checkpoint
from compress.importers import Hints
from compress.training.class_order import list_orders
from compress.training.data import adapt_to_data

NUMBERS = tuple(sorted(map(str, range(1, 13))))  # 1, 10, 11, 12, 2, ...: as torchvision
CASES = tuple(sorted(["ant", "Bee", "cat", "Dog", "eel", "Fox", "gnu", "Hen", "ibex", "Jay", "kid", "Lynx"]))


class Levels(VisionTransformer):
    """Its head sees which of 12 grey levels an image has."""

    def __init__(self, order: tuple[str, ...], classes: tuple[str, ...]) -> None:
        super().__init__(ViTConfig(image_size=4, patch_size=2, dim=12, depth=1, heads=1, mlp_dim=8, classes=12))
        self.head.weight.data = torch.eye(12)[[classes.index(name) for name in order]] * 9
        self.head.bias.data = torch.zeros(12)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.eye(12)[(images.mean((1, 2, 3)) * 255 / 20).round().long()])


def make_data(classes: tuple[str, ...]) -> Data:
    labels = torch.arange(12).repeat(4)
    pixels = (labels * 20)[:, None, None, None].expand(-1, 3, 4, 4).to(torch.uint8)
    split = TensorSplit(pixels.contiguous(), labels)
    return Data("folder:levels", classes, split, split, (0.5,) * 3, (0.2,) * 3)


def adapt(model: VisionTransformer, data: Data, classes: tuple[str, ...] = ()) -> tuple[Checkpoint, list[str]]:
    said: list[str] = []
    origin = {"family": "timm", "numbers": "fp32", "notes": []}
    content = Checkpoint(model.config, (), model.state_dict(), "", classes, (), (), origin=origin)
    settled, adapted = adapt_to_data(Path("m.pth"), model, content, data, Hints(normalize="none"), said.append)
    assert settled.classes == adapted.classes == data.classes
    torch.testing.assert_close(settled.state["head.weight"], model.head.weight.detach())
    return settled, said


def count_right(model: VisionTransformer, data: Data) -> int:
    assert isinstance(data.test, TensorSplit)
    return int((model(data.test.images.float() / 255).argmax(1) == data.test.labels).sum())


def timm_order(names: tuple[str, ...], root: Path) -> tuple[str, ...]:
    for name in names:
        (root / name).mkdir()
        (root / name / "0.png").touch()
    numbers = find_images_and_targets(str(root))[1]
    return tuple(sorted(numbers, key=numbers.__getitem__))


@pytest.mark.parametrize("names", [NUMBERS, CASES], ids=["numbers", "upper and lower case"])
def test_the_order_of_timm_is_found(names: tuple[str, ...], tmp_path: Path) -> None:
    order, data = timm_order(names, tmp_path), make_data(names)
    assert order != names
    model = Levels(order, names)
    assert count_right(model, data) < 16
    _, said = adapt(model, data)
    assert count_right(model, data) == 48
    assert f"100.0% of 48 training images are right with them in natural order ({', '.join(order[:3])}, ...)" in said[0]


def test_the_order_of_the_folders_holds_where_no_other_is_surely_better() -> None:
    data = make_data(NUMBERS)
    model = Levels(NUMBERS, NUMBERS)
    assert adapt(model, data)[1] == []
    torch.manual_seed(0)
    model.head.weight.data = torch.randn(12, 12)
    before = model.head.weight.data.clone()
    assert "near chance" in adapt(model, data)[1][0]
    assert torch.equal(model.head.weight.data, before)


def test_orders_that_are_tried() -> None:
    assert list_orders(("a", "b")) == {}
    assert list_orders(("0.5", "-1", "10", "2"))["numeric"] == ("-1", "0.5", "2", "10")
    assert list_orders(("1", "2", "10")) == {"code point": ("1", "10", "2")}


@pytest.mark.parametrize(
    "beside",
    [
        {"class_to_idx": {"dog": 1, "cat": 2, "ant": 0}},
        {"idx_to_class": {0: "ant", 2: "cat", 1: "dog"}},
        {"id2label": {"1": "dog", "0": "ant", "2": "cat"}},
        {"classes": ["ant", "dog", "cat"]},
        {"class_names": ("ant", "dog", "cat")},
        {"meta": {"CLASSES": ("ant", "dog", "cat"), "epoch": 3}},
        {"idx2label": {0: "ant", 1: "dog", 2: "cat"}},
        {"label_map": {"dog": 1, "cat": 2, "ant": 0}},
        {"names": {0: "ant", 1: "dog", 2: "cat"}},
        {"args": argparse.Namespace(lr=0.1, classes=["ant", "dog", "cat"])},
    ],
    ids=lambda beside: next(iter(beside)),
)
def test_names_in_a_file_are_taken(beside: dict, tmp_path: Path) -> None:
    model = timm.models.VisionTransformer(8, 4, num_classes=3, embed_dim=16, depth=1, num_heads=1)
    torch.save({"state_dict": model.state_dict(), **beside}, tmp_path / "m.pth")
    content = checkpoint.load(tmp_path / "m.pth", Hints(heads=1))
    assert content.classes == ("ant", "dog", "cat")
    assert content.origin is not None
    assert any("names of its classes" in note for note in content.origin["notes"])


@pytest.mark.parametrize(
    "beside",
    [
        {"classes": ["a", "b"]},
        {"classes": ["a", "a", "b"]},
        {"class_to_idx": {"a": 0, "b": 1, "c": 7}},
        {"classes": 3},
        {"classes": ["a\x1b[2J", "b", "c"]},
        {"id2label": {"9" * 5000: "a", "0": "b", "1": "c"}},
    ],
)
def test_what_names_no_classes_is_left(beside: dict, tmp_path: Path) -> None:
    model = timm.models.VisionTransformer(8, 4, num_classes=3, embed_dim=16, depth=1, num_heads=1)
    torch.save({"state_dict": model.state_dict(), **beside}, tmp_path / "m.pth")
    assert checkpoint.load(tmp_path / "m.pth", Hints(heads=1)).classes == ()


@pytest.mark.parametrize(("right", "told"), [(48, False), (44, False), (26, True)])
def test_two_classes_are_no_chance_where_most_answers_are_right(right: int, told: bool) -> None:
    data = make_data(NUMBERS)
    assert isinstance(data.train, TensorSplit)
    labels = (data.train.labels + (torch.arange(48) >= right)) % 12 % 2  # what the model says of so many images
    two = TensorSplit(data.train.images, labels)
    data = Data("folder:two", ("a", "b"), two, two, (0.0,) * 3, (1.0,) * 3)
    model = Levels(NUMBERS, NUMBERS)
    model.head = torch.nn.Linear(12, 2)
    model.head.weight.data, model.head.bias.data = torch.eye(2).repeat(1, 6), torch.zeros(2)
    known = Checkpoint(model.config, (), model.state_dict(), data.name, data.classes, (0.0,) * 3, (1.0,) * 3)
    said: list[str] = []
    adapt_to_data(Path("m.pth"), model, known, data, Hints(), said.append)
    assert ["near chance" in line for line in said] == [True] * told


def test_a_model_that_says_everything_and_knows_nothing_is_told_of() -> None:
    names = tuple("abcdefghijkl")
    model, data = Levels(names, names), make_data(names)
    known = Checkpoint(model.config, (), model.state_dict(), data.name, names, (0.0,) * 3, (1.0,) * 3)
    said: list[str] = []
    adapt_to_data(Path("m.pth"), model, known, data, Hints(), said.append)
    assert said == []
    model.head.weight.data = model.head.weight.data.roll(1, 0)
    adapt_to_data(Path("m.pth"), model, known, data, Hints(), said.append)
    assert said == [
        "the accuracy of m.pth is near chance (0.0% of 48 training images): check --data and the order of the classes"
    ]
