"""Folders of Hugging Face that hold no ViT, or contradict themselves: one sentence each, and no memory set aside."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import converted
from huggingface_models import edit, save
from safetensors.torch import load_file, save_file
from torch import Tensor

from baselines.errors import InputError
from compress.importers import Hints


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        *(({"model_type": kind}, f"is a {kind} of Hugging Face") for kind in ("beit", "dinov2", "swin", "vit_mae")),
        ({"problem_type": "regression"}, "regression"),
        ({"hidden_act": "relu"}, "relu"),
        ({"hidden_act": ["gelu"]}, "gelu"),
        ({"hidden_size": 64}, "hidden_size 64, its weights have 32"),
        ({"hidden_size": 10**12}, "hidden_size 1000000000000"),
        ({"num_hidden_layers": 3}, "num_hidden_layers 3, its weights have 2"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers"),
        ({"intermediate_size": "large"}, "intermediate_size 'large'"),
        ({"num_channels": 1}, "num_channels 1"),
        ({"patch_size": [4, 8]}, "patch_size"),
        ({"image_size": 10**9}, "image_size 1000000000"),
        ({"image_size": [16, 16, 16]}, "image_size"),
        ({"image_size": {"height": 16}}, "image_size"),
        ({"image_size": -16}, "image_size"),
        ({"num_attention_heads": 0}, "num_attention_heads 0"),
        ({"num_attention_heads": 5}, "5 heads"),
        ({"num_attention_heads": 10**12}, "1000000000000 heads"),
        ({"num_attention_heads": "4"}, "num_attention_heads '4'"),
        ({"head_dim": 10**12}, "heads of width 1000000000000"),
        ({"layer_norm_eps": -1}, "norm_eps"),
        ({"layer_norm_eps": "small"}, "norm_eps"),
        ({"qkv_bias": False}, "also holds vit.encoder.layer.0"),
        ({"id2label": {"0": "cat", "1": "dog"}}, "names 2 classes"),
        ({"id2label": ["cat"]}, "names no classes"),
        ({"architectures": ["DeiTForImageClassificationWithTeacher"]}, "lacks cls_classifier.weight"),
    ],
)
def test_a_config_that_contradicts_is_refused_in_a_sentence(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    save(tmp_path)
    edit(tmp_path, **changes)
    refused(tmp_path, sentence)


@pytest.mark.parametrize("text", ["", "{", "[1]", "9" * 5000, "[" * 100_000])
def test_a_config_that_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "config.json").write_text(text)
    refused(tmp_path, "config.json")


@pytest.mark.parametrize(
    "said",
    [
        {"image_mean": [0.5], "image_std": [0.5]},
        {"image_mean": "abc", "image_std": [1, 1, 1]},
        {"image_mean": [0, 0, 0], "image_std": [1, 0, 1]},
        {"image_mean": [0, 0, 0], "image_std": [1, 1, 1], "rescale_factor": 0},
        {"image_mean": [0, 0, 0], "image_std": [1, 1, 1], "rescale_factor": [2]},
    ],
)
def test_a_normalisation_that_cannot_be_is_refused(said: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    refused(tmp_path, "preprocessor_config.json does not normalise 3 channels")


def without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(name)


PATCHES = "vit.embeddings.patch_embeddings.projection.weight"
QUERY = "vit.encoder.layer.1.attention.attention.query."


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without("classifier.weight"), "lacks classifier.weight"),
        (without("classifier.bias"), "lacks classifier.bias"),
        (without(f"{QUERY}bias"), f"lacks {QUERY}bias"),
        (without("vit.layernorm.bias"), "lacks vit.layernorm.bias"),
        (without("vit.encoder.layer.0.layernorm_before.weight"), "does not have its blocks"),
        (without("vit.encoder.layer.1.layernorm_before.weight"), "num_hidden_layers 2, its weights have 1"),
        (lambda tensors: tensors.update(extra=torch.ones(2)), "also holds extra"),
        (lambda tensors: tensors.update({f"{QUERY}weight": torch.ones(32, 32).int()}), "int32"),
        (lambda tensors: tensors.update({f"{QUERY}weight": torch.ones(32, 31)}), "32 x 31"),
        (lambda tensors: tensors.update({f"{QUERY}bias": torch.full((32,), torch.inf)}), "not finite"),
        (lambda tensors: tensors.update({PATCHES: torch.ones(32, 3)}), f"{PATCHES} is 32 x 3"),
        (lambda tensors: tensors.update({PATCHES: torch.ones(32, 3, 4, 0)}), f"{PATCHES} is 32 x 3 x 4 x 0"),
        (
            lambda tensors: tensors.update({"classifier.weight": torch.ones(1, 32), "classifier.bias": torch.ones(1)}),
            "a single number",
        ),
    ],
)
def test_weights_that_are_no_vit_are_refused_in_a_sentence(
    change: Callable[[dict[str, Tensor]], object], sentence: str, tmp_path: Path
) -> None:
    save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    refused(tmp_path, sentence)


def refused(folder: Path, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        converted(folder)
    assert sentence in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_heads_that_config_contradicts_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    assert converted(tmp_path, Hints(heads=4)).config.heads == 4
    with pytest.raises(InputError, match="leave out --heads 8"):
        converted(tmp_path, Hints(heads=8))
