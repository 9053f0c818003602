"""Checkpoints of torchvision's VisionTransformer answer as they do there, and go back."""

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from foreign_models import EXACT, converted, difference, made, redrawn
from torch import nn
from torchvision.models.vision_transformer import ConvStemConfig

from baselines.errors import InputError
from baselines.vit import VisionTransformer, ViTConfig
from compress import loading
from compress.importers import Hints, ImportedModel
from compress.importers.torchvision import LAYOUT

SIZES = [  # image, patch, blocks, heads, width, hidden width, classes
    (32, 8, 2, 4, 48, 96, 5),
    (24, 4, 3, 5, 60, 50, 3),
    (28, 14, 1, 2, 32, 128, 7),
]
KEYS = ("image_size", "patch_size", "num_layers", "num_heads", "hidden_dim", "mlp_dim", "num_classes")
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "representation": {"representation_size": 24},
}


def build(sizes: tuple[int, ...] = SIZES[0], **settings: Any) -> Any:
    given = {**dict(zip(KEYS, sizes, strict=True)), **settings}
    return redrawn(torchvision.models.VisionTransformer(**given))


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "x".join(map(str, sizes)))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_answers_are_those_of_torchvision_there_and_back(
    kind: str, sizes: tuple[int, ...], form: str, tmp_path: Path
) -> None:
    theirs, path = build(sizes, **KINDS[kind]), tmp_path / f"model.{form}"
    (torch.save if form == "pth" else safetensors.torch.save_file)(theirs.state_dict(), path)
    found = converted(path, Hints(heads=sizes[3]))
    assert difference(found, theirs) <= EXACT
    assert LAYOUT.write is not None
    assert difference(found, made(LAYOUT.write(found))) <= EXACT


def test_a_model_of_full_width_is_restored_by_its_path(tmp_path: Path) -> None:
    theirs = redrawn(torchvision.models.VisionTransformer(224, 16, 1, 12, 768, 3072))  # vit_b_16, but for its depth
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    model, which, content = loading.restore(tmp_path / "vit.pth", Hints(heads=12))
    assert (which.name, content.origin and content.origin["family"]) == ("vit", "torchvision")
    assert (content.config.image_size, content.config.classes, content.dataset) == ((224, 224), 1000, "")
    with torch.inference_mode():
        images = torch.randn(3, 3, 224, 224)
        torch.testing.assert_close(model(images), theirs(images), atol=EXACT, rtol=0)


def test_names_before_mlp_was_a_sequence() -> None:
    theirs = build()
    old = {re.sub(r"mlp\.0", "mlp.linear_1", name): value for name, value in theirs.state_dict().items()}
    old = {re.sub(r"mlp\.3", "mlp.linear_2", name): value for name, value in old.items()}
    assert difference(converted(old, Hints(heads=4)), theirs) <= EXACT


@pytest.mark.parametrize("heads", [nn.Linear(48, 6), nn.Sequential(nn.Linear(48, 6))])
def test_a_head_of_ones_own(heads: nn.Module) -> None:
    theirs = build()
    theirs.heads = redrawn(heads)
    assert difference(converted(theirs.state_dict(), Hints(heads=4)), theirs) <= EXACT


def test_without_head_it_knows_no_classes() -> None:
    theirs = build()
    theirs.heads = nn.Identity()
    found = converted(theirs.state_dict(), Hints(heads=4))
    assert not found.head
    assert difference(found, theirs) <= EXACT
    assert LAYOUT.write is not None
    with pytest.raises(InputError, match="a head that knows no classes"):
        LAYOUT.write(found)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model."])
@pytest.mark.parametrize("around", ["model", "state_dict", "model_state_dict"])
def test_what_training_saves_around_weights(prefix: str, around: str, tmp_path: Path) -> None:
    theirs = build()
    tree = {prefix + name: value for name, value in theirs.state_dict().items()}
    args = argparse.Namespace(model="vit_b_16", lr=1e-3)
    torch.save({around: tree, "epoch": 3, "args": args}, tmp_path / "checkpoint.pth")
    assert difference(converted(tmp_path / "checkpoint.pth", Hints(heads=4)), theirs) <= EXACT


def test_the_mean_of_weights_goes_first(tmp_path: Path) -> None:
    last, mean = build(), build(num_classes=6)
    averaged = torch.optim.swa_utils.AveragedModel(mean)
    torch.save({"model": last.state_dict(), "model_ema": averaged.state_dict()}, tmp_path / "checkpoint.pth")
    hints = Hints(heads=4)
    assert difference(converted(tmp_path / "checkpoint.pth", hints), mean) <= EXACT
    assert difference(converted(tmp_path / "checkpoint.pth", replace(hints, ema=False)), last) <= EXACT


@pytest.mark.parametrize(("numbers", "name"), [(torch.float16, "fp16"), (torch.bfloat16, "bf16")])
def test_weights_in_other_numbers(numbers: torch.dtype, name: str) -> None:
    theirs = build().to(numbers)
    found = converted(theirs.state_dict(), Hints(heads=4))
    assert found.dtype == name
    assert difference(found, theirs.float()) <= EXACT


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_that_is_missing_or_too_many_is_an_error(kind: str) -> None:
    state, hints = build(**KINDS[kind]).state_dict(), Hints(heads=4)
    for lost in state:
        said = "of no layout" if lost == "encoder.pos_embedding" else re.escape(lost)
        with pytest.raises(InputError, match=said):
            converted({name: value for name, value in state.items() if name != lost}, hints)
        with pytest.raises(InputError, match=rf"also holds {re.escape(lost)}_extra"):
            converted({**state, f"{lost}_extra": state[lost]}, hints)
        with pytest.raises(InputError, match="float weights are expected"):
            converted({**state, lost: state[lost].to(torch.int64)}, hints)


@pytest.mark.parametrize(
    ("settings", "hints", "sentence"),
    [
        ({}, Hints(), "how many heads .* say it with --heads"),
        ({"num_classes": 1}, Hints(heads=4), "answers with a single number"),
        ({"conv_stem_configs": [ConvStemConfig(8, 3, 8)]}, Hints(heads=4), "made by convolutions .*--model"),
        ({}, Hints(heads=4, image_size=(32, 64)), "--image-size 32x64 does not make the 16 patches"),
    ],
)
def test_what_is_no_such_vit_is_said_in_a_sentence(settings: dict[str, Any], hints: Hints, sentence: str) -> None:
    with pytest.raises(InputError, match=rf"weights.pth.*{sentence}|{sentence}.*weights.pth"):
        converted(build(**settings).state_dict(), hints)


OURS = {"image_size": 16, "patch_size": 4, "dim": 24, "depth": 2, "heads": 3, "mlp_dim": 40, "classes": 4}


@pytest.mark.parametrize(
    "settings",
    [{}, {"norm_eps": 1e-12, "representation": 10}, {"layer_scale": 0.1}],  # factors go into the layers before them
)
def test_models_of_ours_leave_for_torchvision(settings: dict[str, Any]) -> None:
    model: Any = redrawn(VisionTransformer(ViTConfig(**{**OURS, **settings})))
    foreign = ImportedModel(model.config, model.state_dict())
    assert LAYOUT.write is not None
    assert difference(foreign, made(LAYOUT.write(foreign))) <= EXACT


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"tokenizer": "conv"}, "a tokenizer 'conv'"),
        ({"pool": "mean"}, "a mean over patches"),
        ({"registers": 1}, "registers"),
        ({"distill_token": True}, "a distillation token"),
        ({"pre_norm": True}, "a norm in front of the first block"),
        ({"qk_norm": True}, "norms of queries and keys"),
        ({"activation": "gelu_tanh"}, "activation 'gelu_tanh'"),
        ({"image_size": (16, 32)}, "images that are no squares"),
        ({"channels": 1}, "images of 1 channels"),
    ],
)
def test_what_torchvision_has_not_does_not_leave(settings: dict[str, Any], what: str) -> None:
    model = VisionTransformer(ViTConfig(**{**OURS, **settings}))
    assert LAYOUT.write is not None
    with pytest.raises(InputError, match=rf"^torchvision has no models with .*{what}"):
        LAYOUT.write(ImportedModel(model.config, model.state_dict()))
