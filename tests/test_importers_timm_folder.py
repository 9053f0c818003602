"""What weights of timm's names do not show is read from config.json beside them, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from foreign_models import EXACT, build, converted, difference, redrawn
from timm.layers.mlp import Mlp
from timm.layers.norm import RmsNorm
from timm.models._hub import save_for_hf
from timm.models.vision_transformer import Block
from torch import nn

from baselines.errors import InputError
from compress.importers import Hints
from compress.importers.timm_settings import Settings


def saved(model: nn.Module, folder: Path, **config: Any) -> Path:
    """As on the hub, with `config.json` changed to hold `config` as well."""
    save_for_hf(model, str(folder), safe_serialization=True)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False}),  # looks like a class token's
        ("vit_tiny_patch16_224", {"fc_norm": True}),  # looks like a mean's
        ("vit_tiny_patch16_224", {"pos_embed": "none", "in_chans": 1}),
        ("vit_tiny_patch16_224", {"img_size": (16, 64)}),  # 2 x 8 patches, which might be 4 x 4
        ("vit_tiny_patch16_224", {"pre_norm": True}),  # 1e-6, unlike CLIP
        ("vit_tiny_patch16_224", {"act_layer": "gelu_tanh"}),
        ("vit_base_patch32_siglip_gap_256", {}),  # gelu_tanh by its name
        ("vit_so150m_patch16_reg4_gap_256", {"img_size": 16, "class_token": True, "no_embed_class": True}),
    ],
)
def test_a_folder_says_what_weights_do_not(name: str, settings: dict[str, Any], *, safe: bool, tmp_path: Path) -> None:
    theirs = build(name, **settings)
    save_for_hf(theirs, str(tmp_path), safe_serialization=safe)
    found = converted(tmp_path)
    assert difference(found, theirs) <= EXACT
    assert len(found.mean) == len(found.std) == found.config.channels


def test_a_folder_names_classes_and_normalisation(tmp_path: Path) -> None:
    theirs = build("deit_tiny_patch16_224", num_classes=3)
    found = converted(saved(theirs, tmp_path, label_names=["cat", "dog", "emu"]))
    assert found.classes == ("cat", "dog", "emu")
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert converted(saved(theirs, tmp_path, label_names={"0": "cat", "2": "emu"})).classes == ("cat", "1", "emu")
    assert converted(tmp_path / "model.safetensors").classes == ("cat", "1", "emu")
    with pytest.raises(InputError, match=r"config.json names 1 classes, and its head tells 3 apart"):
        converted(saved(theirs, tmp_path, label_names=["cat"]))
    with pytest.raises(InputError, match=r"'model_args.num_heads' should be greater than 0, not -4"):
        converted(saved(theirs, tmp_path, model_args={"num_heads": -4}))


def test_heads_are_those_of_the_architecture_named(tmp_path: Path) -> None:
    theirs = redrawn(timm.create_model("vit_medium_patch16_gap_240", img_size=32, depth=1, num_classes=2))
    assert converted(saved(theirs, tmp_path, model_args={})).config.heads == 8
    assert difference(converted(tmp_path), theirs) <= EXACT
    old = {"architecture": "vit_medium_patch16_gap_240", "global_pool": "avg", "mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "config.json").write_text(json.dumps(old))  # as it was before there was pretrained_cfg
    assert difference(converted(tmp_path), theirs) <= EXACT
    assert converted(tmp_path).mean == (0.5, 0.5, 0.5)


def test_every_architecture_has_the_heads_activation_and_epsilon_that_timm_gives_it() -> None:
    names = [name for module in ("vision_transformer", "deit") for name in timm.list_models(module=module)]
    activations = {"GELU": "gelu", "GELUTanh": "gelu_tanh"}
    for name in names:
        with torch.device("meta"):
            model: Any = timm.create_model(name, depth=1)
        told, block = Settings(architecture=name), model.blocks[0]
        if type(block) is not Block or type(block.mlp) is not Mlp or name.startswith("beit3"):
            continue  # its weights show that it is another model
        assert told.heads(model.embed_dim) in (None, block.attn.num_heads), name
        assert told.find_unknown() or told.activation == activations[type(block.mlp.act).__name__], name
        assert isinstance(block.norm1, RmsNorm) or told.eps(pre_norm=False) == block.norm1.eps, name


def test_images_are_no_larger_than_memory(tmp_path: Path) -> None:
    theirs = build("vit_tiny_patch16_224", pos_embed="none")
    with pytest.raises(InputError, match=r"1000000 x 1000000 pixels are 15,625,000,000 patches"):
        converted(saved(theirs, tmp_path, model_args={"num_heads": 4, "pos_embed": "none", "img_size": 10**6}))


def test_the_wrapper_of_transformers_is_read_too(tmp_path: Path) -> None:
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    args = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4}
    config: Any = TimmWrapperConfig(architecture="vit_tiny_patch16_224", model_args=args)
    config.num_labels = 3
    theirs = TimmWrapperForImageClassification(config)
    redrawn(theirs).save_pretrained(tmp_path)
    assert difference(converted(tmp_path), theirs.timm_model) <= EXACT


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("swin_tiny_patch4_window7_224", {"embed_dim": 24, "depths": (1, 1), "num_heads": (1, 1), "img_size": 56}, "Swin"),
    ("beit_base_patch16_224", {}, "relative positions"),
    ("eva02_tiny_patch14_224", {}, "biases of their own"),
    ("vit_base_patch16_rope_224", {}, "rotary"),
    ("vit_base_patch16_rope_mixed_ape_224", {}, "rotary"),
    ("vit_small_patch16_dinov3", {}, "rotary"),
    ("vit_giant_patch14_dinov2", {}, "SwiGLU"),
    ("vit_base_patch16_siglip_224", {}, "attention that pools"),
    ("beit3_base_patch16_224", {}, "further norms"),
    ("vit_intern300m_patch14_448", {"img_size": 28}, "no norm in front of its head"),
    ("test_vit4", {}, "RMS norm"),
    ("vit_pwee_patch16_reg1_gap_256", {}, "side by side"),
    ("vit_small_patch16_18x2_224", {}, "side by side"),
    ("vit_dwee_patch16_reg1_gap_256", {}, "differential attention"),
    ("vit_relpos_small_patch16_224", {}, "relative positions"),
    ("cait_xxs24_224", {"depth": 1}, "CaiT"),
]


@pytest.mark.parametrize(("name", "settings", "what"), REFUSED, ids=[name for name, _, _ in REFUSED])
def test_what_is_no_such_vit_is_named(name: str, settings: dict[str, Any], what: str) -> None:
    small = {} if settings.get("depths") else {"img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 2}
    with torch.device("meta"):
        state = timm.create_model(name, **{**small, **settings}).state_dict()
    with pytest.raises(InputError, match=rf"{what}.*--model path/to/file.py:factory$"):
        converted({name: torch.randn(value.shape) for name, value in state.items()}, Hints(heads=2))


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"architecture": "vit_base_patch16_clip_quickgelu_224"}, "QuickGELU"),
        ({"architecture": "vit_base_patch16_rpn_224"}, "norms behind attention and MLP"),
        ({"architecture": "vit_small_patch16_rope_ape_224"}, "rotary"),
        ({"model_args": {"num_heads": 4, "global_pool": "max"}}, "global_pool 'max'"),
        ({"model_args": {"num_heads": 4, "act_layer": "silu"}}, "act_layer 'silu'"),
        ({"model_args": {"num_heads": 4, "norm_layer": "rmsnorm"}}, "norm_layer 'rmsnorm'"),
        ({"model_args": {"num_heads": 4, "global_pool": "avg", "pool_include_prefix": True}}, "pool_include_prefix"),
    ],
)
def test_what_only_a_folder_shows_is_refused(config: dict[str, Any], what: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{what}, says its config.json; .*--model|{what}.*config.json; .*--model"):
        converted(saved(build("vit_tiny_patch16_224"), tmp_path, **config))
