"""Checkpoints of timm, and of those who publish under its names, answer as they do there, and models go back."""

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from foreign_models import EXACT, SIZES, build, converted, difference, made, redrawn
from timm.models.vision_transformer import checkpoint_filter_fn
from timm.utils.checkpoint_saver import CheckpointSaver
from torch import Tensor, nn

from baselines.errors import InputError
from baselines.vit import VisionTransformer, ViTConfig
from compress import loading
from compress.importers import Hints, ImportedModel
from compress.importers.timm import LAYOUT

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("vit_tiny_patch16_224", {}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "DeiT-III": ("deit3_small_patch16_224", {}),
    "DINOv2": ("vit_small_patch14_dinov2", {}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", {}),
    "registers and mean": ("vit_medium_patch16_reg4_gap_256", {}),
    "registers with positions and mean": ("vit_so150m_patch16_reg4_gap_256", {}),
    "mean of normed patches": ("vit_base_patch16_siglip_gap_224", {}),
    "mean beside a class token": ("eva_large_patch14_196", {}),
    "CLIP": ("vit_base_patch16_clip_224", {}),
    "normed queries": ("vit_tiny_patch16_224", {"qk_norm": True}),
    "queries without bias": ("vit_medium_patch16_gap_240", {}),
    "layers without bias": ("vit_tiny_patch16_224", {"proj_bias": False}),
    "grey": ("vit_tiny_patch16_224", {"in_chans": 1}),
    "an odd hidden width": ("vit_tiny_patch16_224", {"mlp_ratio": 2.572}),
    "no classes": ("vit_small_patch14_reg4_dinov2", {"num_classes": 0}),
    "distilled without classes": ("deit_tiny_distilled_patch16_224", {"num_classes": 0}),
}


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "x".join(map(str, sizes)))
@pytest.mark.parametrize("kind", MODELS)
def test_answers_are_those_of_timm_there_and_back(kind: str, sizes: tuple[int, ...]) -> None:
    name, settings = MODELS[kind]
    theirs = build(name, sizes, **settings)
    found = converted(theirs.state_dict(), Hints(heads=sizes[4]))
    assert difference(found, theirs) <= EXACT
    assert found.head == (theirs.num_classes > 0)
    assert LAYOUT.write is not None
    assert difference(found, made(LAYOUT.write(found))) <= EXACT


def test_a_published_geometry_needs_no_hints(tmp_path: Path) -> None:
    theirs = redrawn(timm.create_model("vit_tiny_patch16_224"))
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    found = converted(tmp_path / "vit.pth")
    assert (found.config.heads, found.config.image_size, found.config.classes) == (3, (224, 224), 1000)
    assert difference(found, theirs) <= EXACT
    assert any("3 heads" in note for note in found.notes)


def test_an_epsilon_of_another_size_would_show() -> None:
    theirs = build("vit_base_patch16_clip_224")
    found = converted(theirs.state_dict(), Hints(heads=4))
    assert found.config.norm_eps == 1e-5
    assert difference(replace(found, config=found.config.model_copy(update={"norm_eps": 1e-6})), theirs) > EXACT


def dinov2(state: dict[str, Tensor], registers: int) -> dict[str, Tensor]:
    """As its authors leave it: registers without positions, and a token that hides patches."""
    own = {name: value.clone() for name, value in state.items() if name != "reg_token"}
    own |= {"pos_embed": 0.02 * torch.randn(1, 17, 48), "mask_token": torch.randn(1, 48)}
    return own | ({"register_tokens": 0.02 * torch.randn(1, registers, 48)} if registers else {})


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_as_its_authors_leave_it(registers: int) -> None:
    name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    theirs = build(name, depth=5, num_classes=0)
    own = dinov2(theirs.state_dict(), registers)
    theirs.load_state_dict(checkpoint_filter_fn(dict(own), theirs), strict=True)
    chunk = {re.sub(r"^blocks\.(\d)", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}", name): own[name] for name in own}
    found = converted(chunk, Hints(heads=4))
    assert not found.head
    assert difference(found, theirs) <= EXACT


def test_deit3_as_its_authors_leave_it() -> None:
    theirs = build("deit3_small_patch16_224")
    own = {k.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v for k, v in theirs.state_dict().items()}
    found = converted({"model": own}, Hints(heads=4))
    assert difference(found, theirs) <= EXACT
    assert any("rotary" in note for note in found.notes)


def test_mae_loses_its_decoder_and_keeps_its_mean() -> None:
    theirs = build("vit_base_patch16_224", global_pool="avg")
    found = converted({"model": theirs.state_dict(), "epoch": 99}, Hints(heads=4))
    assert difference(found, theirs) <= EXACT
    theirs = build("vit_base_patch16_224", num_classes=0)
    decoder = {"mask_token": torch.zeros(1, 1, 32), "decoder_blocks.0.norm1.weight": torch.zeros(32)}
    found = converted({"model": {**theirs.state_dict(), **decoder}}, Hints(heads=4))
    assert difference(found, theirs) <= EXACT
    assert any("decoder" in note for note in found.notes)


def test_the_representation_of_older_releases_has_a_tanh() -> None:
    theirs = build("vit_tiny_patch16_224")
    layer, head = redrawn(nn.Linear(48, 24)), redrawn(nn.Linear(24, 5))
    state = {name: value for name, value in theirs.state_dict().items() if not name.startswith("head")}
    state |= {f"pre_logits.fc.{name}": value for name, value in layer.state_dict().items()}
    state |= {f"head.{name}": value for name, value in head.state_dict().items()}
    theirs.head = nn.Sequential(layer, nn.Tanh(), head)
    assert difference(converted(state, Hints(heads=4)), theirs) <= EXACT


def test_what_training_saves_around_weights(tmp_path: Path) -> None:
    last, mean = build("vit_tiny_patch16_224"), build("vit_tiny_patch16_224", num_classes=6)
    args = argparse.Namespace(model="vit_tiny_patch16_224", lr=1e-3)
    optimizer = torch.optim.AdamW(last.parameters())
    last(torch.ones(1, 3, 32, 32)).sum().backward()
    optimizer.step()
    redrawn(last)
    saver = CheckpointSaver(last, optimizer, args=args, model_ema=mean, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(epoch=3, metric=71.5)
    path, hints = tmp_path / "last.pth.tar", Hints(heads=4)
    assert difference(converted(path, hints), mean) <= EXACT
    assert difference(converted(path, replace(hints, ema=False)), last) <= EXACT
    assert "state_dict_ema" in "".join(converted(path, hints).notes)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "backbone."])
@pytest.mark.parametrize("around", [None, "model", "state_dict"])
def test_prefixes_and_wrappers(prefix: str, around: str | None, tmp_path: Path) -> None:
    theirs = build("deit_tiny_distilled_patch16_224")
    tree: Any = {prefix + name: value for name, value in theirs.state_dict().items()}
    torch.save({around: tree, "epoch": 1} if around else tree, tmp_path / "model.pth")
    assert difference(converted(tmp_path / "model.pth", Hints(heads=4)), theirs) <= EXACT


@pytest.mark.parametrize(
    ("numbers", "name"), [(torch.float16, "fp16"), (torch.bfloat16, "bf16"), (torch.float64, "fp64")]
)
def test_weights_in_other_numbers(numbers: torch.dtype, name: str, tmp_path: Path) -> None:
    theirs = build("vit_small_patch14_reg4_dinov2").to(numbers)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    found = converted(tmp_path / "model.safetensors", Hints(heads=4))
    assert found.dtype == name
    assert difference(found, theirs.float()) <= EXACT


def test_the_model_is_restored_by_its_path(tmp_path: Path) -> None:
    theirs = build("deit_tiny_patch16_224")
    torch.save(theirs.state_dict(), tmp_path / "deit.pth")
    model, which, content = loading.restore(tmp_path / "deit.pth", Hints(heads=4))
    batch = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model(batch), theirs(batch), atol=EXACT, rtol=0)
    assert (which.name, content.dataset, content.origin and content.origin["family"]) == ("vit", "", "timm")


UNNAMED = {  # what is said where one of these is missing
    **dict.fromkeys(("cls_token", "dist_token", "reg_token"), "patches, which make no square"),
    "patch_embed.proj.weight": "of no layout that compress knows",
}


@pytest.mark.parametrize(
    "kind", ["plain", "distilled", "registers with positions and mean", "CLIP", "normed queries", "DINOv2"]
)
def test_a_tensor_that_is_missing_or_too_many_is_an_error(kind: str) -> None:
    name, settings = MODELS[kind]
    state, hints = build(name, **settings).state_dict(), Hints(heads=4)
    for lost in state:
        with pytest.raises(InputError, match=UNNAMED.get(lost, re.escape(lost))):
            converted({name: value for name, value in state.items() if name != lost}, hints)
        with pytest.raises(InputError, match=r"extra|of no layout"):
            converted({**state, f"{lost}_extra": state[lost]}, hints)
        with pytest.raises(InputError, match=r"float weights are expected|positions|squares"):
            converted({**state, lost: state[lost].to(torch.int64)}, hints)


@pytest.mark.parametrize(
    ("settings", "hints", "sentence"),
    [
        ({}, Hints(), "how many heads .* say it with --heads"),
        ({}, Hints(heads=7), "--heads 7 does not divide the width 48"),
        ({"qk_norm": True}, Hints(heads=2), "has 4 heads in each block; leave out --heads 2"),
        ({"num_classes": 1}, Hints(heads=4), "answers with a single number"),
        ({"img_size": (16, 24)}, Hints(heads=4), "6 patches, which make no square; .* --image-size"),
        ({"img_size": (16, 24)}, Hints(heads=4, image_size=(24, 24)), "--image-size 24x24 does not make the 6 patches"),
        ({"patch_size": (8, 4)}, Hints(heads=4), "patches that are no squares"),
        ({"img_size": 16, "reg_tokens": 4}, Hints(heads=4), "whether its 9 positions are those of patches alone"),
    ],
)
def test_what_is_to_be_asked_is_asked(settings: dict[str, Any], hints: Hints, sentence: str) -> None:
    with pytest.raises(InputError, match=rf"^weights.pth.*{sentence}|{sentence}.*weights.pth"):
        converted(build("vit_tiny_patch16_224", **settings).state_dict(), hints)


def test_oblong_images_are_read_as_they_are_said_to_be() -> None:
    theirs = build("deit_tiny_distilled_patch16_224", img_size=(16, 24))
    found = converted(theirs.state_dict(), Hints(heads=4, image_size=(16, 24)))
    assert found.config.image_size == (16, 24)
    assert difference(found, theirs) <= EXACT


OURS = {"image_size": 16, "patch_size": 4, "dim": 24, "depth": 2, "heads": 3, "mlp_dim": 40, "classes": 4}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"norm_eps": 1e-12, "mlp_dim": 53, "image_size": (8, 16), "channels": 2},
        {"pool": "mean", "registers": 2, "norm_at": "pooled", "layer_scale": 0.1},
        {"pool": "mean"},
        {"registers": 3, "qk_norm": True, "activation": "gelu_tanh"},
        {"distill_token": True, "pre_norm": True},
        {"pre_norm": True, "pool": "mean", "registers": 1},  # the bias of patches goes into positions
    ],
)
def test_models_of_ours_leave_for_timm(settings: dict[str, Any]) -> None:
    model = redrawn(VisionTransformer(ViTConfig(**{**OURS, **settings})))
    foreign = ImportedModel(model.config, model.state_dict())
    assert LAYOUT.write is not None
    assert difference(foreign, made(LAYOUT.write(foreign))) <= EXACT


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"tokenizer": "cct"}, "a tokenizer 'cct'"),
        ({"tokenizer": "normed"}, "a tokenizer 'normed'"),
        ({"pool": "seq"}, "pooling under learned weights"),
        ({"norm": "batch"}, "batch norm"),
        ({"head_dim": 12}, "heads 12 wide in a model of width 24"),
        ({"representation": 8}, "representation"),
        ({"distill_token": True, "registers": 1}, "registers beside a distillation token"),
    ],
)
def test_what_timm_has_not_does_not_leave(settings: dict[str, Any], what: str) -> None:
    model = VisionTransformer(ViTConfig(**{**OURS, **settings}))
    assert LAYOUT.write is not None
    with pytest.raises(InputError, match=rf"^timm has no models with .*{what}"):
        LAYOUT.write(ImportedModel(model.config, model.state_dict()))
