"""What trainings wrap around a model, and keep beside it: the model answers as the library's does, or is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from foreign_models import EXACT, build, converted, difference, redrawn
from test_importers_timm import MODELS
from torch import Tensor, nn

from baselines.errors import InputError
from compress.importers import Hints

HEADS = Hints(heads=4)
FOUR = {"criterion.weight": torch.ones(5), "val_acc.tp": torch.zeros(5, dtype=torch.long)}
SMALL: dict[str, Any] = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 48}


def two() -> tuple[Any, Any]:
    """A model and another of the same geometry, which answers otherwise."""
    first, second = build("vit_tiny_patch16_224"), build("vit_tiny_patch16_224")
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(0.9)
    return first, second


def put(prefix: str, model: nn.Module) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in model.state_dict().items()}


PAIRS = {  # what makes a file of two models; names of the last weights and of their average
    "DINO": (lambda a, b: {"student": put("module.", a), "teacher": b.state_dict()}, "student", "teacher"),
    "EMA": (lambda a, b: {"model": a.state_dict(), "model_ema": b.state_dict()}, "model", "model_ema"),
    "shadow": (lambda a, b: {"net": a.state_dict(), "ema": {"shadow": b.state_dict()}}, "net", "ema"),
    "BYOL": (lambda a, b: {"online": a.state_dict(), "target": b.state_dict()}, "online", "target"),
    "Lightning": (lambda a, b: {"state_dict": put("vit.", a) | put("ema_vit.", b) | FOUR}, "vit", "ema_vit"),
    "both": (lambda a, b: {"state_dict": put("student.", a) | put("teacher.", b)}, "student", "teacher"),
    "inside": (lambda a, b: put("", a) | put("ema.module.", b), "last", "ema"),
    "SWA": (lambda a, b: {"state_dict": put("model.", a) | put("swa_model.module.", b)}, "model", "swa_model"),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_of_two_models_the_average_is_taken_and_an_option_chooses(kind: str) -> None:
    (last, average), (make, last_name, average_name) = two(), PAIRS[kind]
    tree = make(last, average)
    found = converted(tree, HEADS)
    assert difference(found, average) <= EXACT
    assert f"weights of '{average_name}" in found.choice
    assert found.choice in found.notes
    for hints in (Hints(4, weights=last_name), Hints(4, weights="last"), Hints(4, ema=False)):
        found = converted(tree, hints)
        assert difference(found, last) <= EXACT
        assert f"weights of '{last_name}" in found.choice
    assert difference(converted(tree, Hints(4, weights=average_name)), average) <= EXACT
    with pytest.raises(InputError, match=r"--weights other is no entry of weights.pth; it holds .*\b" + last_name):
        converted(tree, Hints(4, weights="other"))


@pytest.mark.parametrize("around", [{}, {"state_dict": None}])
def test_a_teacher_of_another_geometry_is_not_what_was_trained(around: dict[str, Any]) -> None:
    student, teacher = build("vit_tiny_patch16_224"), build("vit_tiny_patch16_224", depth=6)
    tree: Any = {"student": student.state_dict(), "teacher": teacher.state_dict()}
    tree = {"state_dict": put("student.", student) | put("teacher.", teacher)} if around else tree
    found = converted(tree, HEADS)
    assert difference(found, student) <= EXACT
    assert "weights of 'student' out of student, teacher" in found.choice


def test_models_whose_names_say_nothing_are_asked_for() -> None:
    first, second = two()
    for tree in ({"a": first.state_dict(), "b": second.state_dict()}, put("a.", first) | put("b.", second)):
        with pytest.raises(InputError, match=r"several models \(a, b\); say which with --weights a"):
            converted(tree, HEADS)
        assert difference(converted(tree, Hints(4, weights="b")), second) <= EXACT
    with pytest.raises(InputError, match="it holds one model alone"):
        converted(first.state_dict(), Hints(4, weights="b"))


ONE_LINEAR = ["head.1", "heads.1", "classifier.1", "classifier", "fc", "fc.1", "head.fc", "linear"]
INSIDE, BESIDE = ["", "model.", "module.model."], ["backbone.", "vit.", "encoder.", "model.backbone."]


@pytest.mark.parametrize("name", ONE_LINEAR)
@pytest.mark.parametrize("prefix", [*INSIDE, *BESIDE])
def test_a_linear_layer_alone_is_the_head_whatever_it_is_called(name: str, prefix: str) -> None:
    theirs = build("vit_tiny_patch16_224")
    state = {prefix + key: value for key, value in theirs.state_dict().items() if not key.startswith("head.")}
    parent = prefix if prefix in INSIDE else re.sub(r"(backbone|vit|encoder)\.$", "", prefix)
    state |= {f"{parent}{name}.{kind}": value for kind, value in theirs.head.state_dict().items()}
    found = converted({"state_dict": state | FOUR}, HEADS)
    assert found.head
    assert difference(found, theirs) <= EXACT
    assert f"its head is the Linear layer '{parent}{name}'" in found.notes


def test_heads_of_other_libraries_in_wrappers() -> None:
    theirs = redrawn(torchvision.models.VisionTransformer(**SMALL, mlp_dim=96, num_classes=5))
    theirs.heads = nn.Sequential(nn.Dropout(), theirs.heads.head)
    assert difference(converted(theirs.state_dict(), HEADS), theirs.eval()) <= EXACT
    state = {name.replace("heads.1", "fc"): value for name, value in put("vit.", theirs).items()}
    state = {name.replace("vit.fc", "fc"): value for name, value in state.items()}
    assert difference(converted(state, HEADS), theirs) <= EXACT
    state.pop("fc.bias")
    theirs.heads[1].bias.data.zero_()
    assert difference(converted(state, HEADS), theirs) <= EXACT


MORE = {
    "a norm before it": {"0.weight": (48,), "0.bias": (48,), "1.weight": (5, 48), "1.bias": (5,)},
    "two layers": {"0.weight": (9, 48), "0.bias": (9,), "3.weight": (5, 9), "3.bias": (5,)},
    "batch norm": {"0.running_mean": (48,), "0.running_var": (48,), "1.weight": (5, 48), "1.bias": (5,)},
}


@pytest.mark.parametrize("kind", MORE)
@pytest.mark.parametrize(("prefix", "name"), [("", "head"), ("backbone.", "fc"), ("model.vit.", "model.classifier")])
def test_any_other_head_is_refused_by_its_name(kind: str, prefix: str, name: str) -> None:
    state = put(prefix, build("vit_tiny_patch16_224", num_classes=0))
    state |= {f"{name}.{part}": torch.ones(shape) for part, shape in MORE[kind].items()}
    with pytest.raises(InputError, match=f"its head '{re.escape(name)}' is more than one Linear layer"):
        converted(state, HEADS)


def test_two_heads_are_refused() -> None:
    state = put("model.", build("vit_tiny_patch16_224")) | {"fc.weight": torch.ones(3, 5), "fc.bias": torch.ones(3)}
    with pytest.raises(InputError, match=r"several heads \(model.head, fc\)"):
        converted(state, HEADS)


def test_what_lies_beside_a_model_is_left_out_and_noted() -> None:
    theirs = build("vit_tiny_patch16_224")
    for prefix in ("model.", "net.module.", ""):
        found = converted({"state_dict": put(prefix, theirs) | FOUR}, HEADS)
        assert difference(found, theirs) <= EXACT
        assert found.notes == ("left out, as no part of the model: criterion.weight, val_acc.tp",)
    found = converted(put("model.", theirs) | {"projector.0.weight": torch.ones(3, 3)}, HEADS)
    assert found.notes == ("left out, as no part of the model: projector.0.weight",)
    headless = put("student.backbone.", build("vit_tiny_patch16_224", num_classes=0))
    headless |= {"student.head.mlp.0.weight": torch.ones(9, 48), "student.head.last_layer.weight_v": torch.ones(9, 9)}
    found = converted(headless, HEADS)  # as DINO leaves it
    assert not found.head
    assert "without 'student.head', a projection that pretraining alone needs" in found.notes
    assert difference(found, build("vit_tiny_patch16_224", num_classes=0)) <= EXACT


@pytest.mark.parametrize("name", ["model.extra.weight", "model.blocks.1.criterion", "model.fc.weight"])
def test_a_leftover_inside_the_prefix_of_a_model_is_an_error(name: str) -> None:
    state = put("model.", build("vit_tiny_patch16_224")) | {name: torch.ones(3)}
    with pytest.raises(InputError, match=f"it also holds {name}, which such a model does not have"):
        converted(state, HEADS)


def test_what_may_stand_between_a_model_and_its_answers_is_refused() -> None:
    state = put("backbone.", build("vit_tiny_patch16_224", num_classes=0))
    state |= {"fc.weight": torch.ones(5, 48), "fc.bias": torch.ones(5), "neck.weight": torch.ones(48)}
    with pytest.raises(InputError, match=r"it also holds neck\.weight, beside its 'backbone\.'"):
        converted(state, HEADS)


@pytest.mark.parametrize(
    "name",
    [
        "blocks.0.attn.qkv.lora_A.default.weight",
        "base_model.model.blocks.0.attn.qkv.base_layer.weight",
        "blocks.0.adapter_down.weight",
        "blocks.0.adaptmlp.up_proj.weight",
    ],
)
def test_adapters_are_called_so_and_the_remedy_is_said(name: str, tmp_path: Path) -> None:
    state = build("vit_tiny_patch16_224").state_dict() | {name: torch.ones(3, 3)}
    for held in (state, {name: torch.ones(3, 3)}):
        with pytest.raises(InputError, match=rf"holds an adapter \({name}\): merge it .*merge_and_unload\(\)"):
            converted(held, HEADS)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(InputError, match="holds an adapter"):
        converted(tmp_path, HEADS)


@pytest.mark.parametrize("kind", MODELS)
def test_parameters_are_as_many_as_timm_counts(kind: str) -> None:
    name, settings = MODELS[kind]
    theirs = build(name, **settings)
    assert converted(theirs.state_dict(), HEADS).parameters == sum(each.numel() for each in theirs.parameters())
