"""ViT and DeiT of Hugging Face: the same answers there and here, both ways."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import EXACT, converted, difference, images, ours, redrawn
from huggingface_models import KINDS, Logits, edit, save, transformers
from safetensors.torch import load_file, save_file

from baselines.errors import InputError
from baselines.vit import VisionTransformer, ViTConfig
from compress.importers import Hints, ImportedModel, huggingface


@pytest.mark.parametrize("new_names", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_answers_are_theirs(name: str, new_names: bool, tmp_path: Path) -> None:
    theirs = save(tmp_path, name, save_original_format=not new_names)
    assert any("q_proj" in key for key in load_file(tmp_path / "model.safetensors")) == new_names
    foreign = converted(tmp_path)
    assert difference(foreign, theirs) <= EXACT
    assert (foreign.layout, foreign.classes, foreign.mean, foreign.head) == ("huggingface", (), (), True)


def test_config_beside_weights_counts_for_the_file_too(tmp_path: Path) -> None:
    theirs = save(tmp_path, "unbiased", binary=True)
    assert difference(converted(tmp_path / "pytorch_model.bin"), theirs) <= EXACT


def test_weights_alone_are_taken_as_usual_and_it_is_said(tmp_path: Path) -> None:
    theirs = save(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="--heads"):
        converted(tmp_path / "model.safetensors")
    foreign = converted(tmp_path / "model.safetensors", Hints(heads=4))
    assert difference(foreign, theirs) <= EXACT
    assert any("1e-12" in note for note in foreign.notes)


@pytest.mark.parametrize("architecture", ["ViTModel", "DeiTModel", "ViTForMaskedImageModeling"])
def test_a_model_without_head_knows_no_classes(architecture: str, tmp_path: Path) -> None:
    theirs = save(tmp_path, architecture).model
    foreign = converted(tmp_path)
    assert not foreign.head
    batch = images(foreign)
    with torch.inference_mode():
        expected = getattr(theirs, "vit", theirs)(batch).last_hidden_state[:, 0]
        assert (ours(foreign)(batch) - expected).abs().max() <= EXACT


def test_classes_and_normalisation_are_read(tmp_path: Path) -> None:
    save(tmp_path)
    names = ("cat", "dog", "a fox", "LABEL_3", "yak")
    edit(tmp_path, id2label={str(i): names[i] for i in (4, 2, 0, 1, 3)})
    processor = {"image_mean": [0.5, 0.25, 0.75], "image_std": [0.5, 0.125, 1.0]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    foreign = converted(tmp_path)
    assert (foreign.classes, foreign.mean, foreign.std) == (names, (0.5, 0.25, 0.75), (0.5, 0.125, 1.0))


def test_preprocessing_that_is_not_followed_is_said_by_every_command(tmp_path: Path) -> None:
    save(tmp_path)
    processor = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 16}, "crop_pct": 0.9}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert "images are stretched" in converted(tmp_path).choice
    assert converted(tmp_path, Hints(resize="0.9")).choice == ""
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 16}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert converted(tmp_path).choice == ""


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.1]},
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [120.0, 110.0, 100.0], "image_std": [60.0, 50.0, 40.0]},
        {"rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 1.0},
    ],
)
def test_pixels_are_normalised_as_by_their_processor(said: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}, **said).save_pretrained(tmp_path)
    foreign = converted(tmp_path)
    pixels = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = transformers.AutoImageProcessor.from_pretrained(tmp_path)(pixels, return_tensors="pt")["pixel_values"][0]
    mean, std = (torch.tensor(each)[:, None, None] for each in (foreign.mean, foreign.std))
    torch.testing.assert_close((pixels / 255 - mean) / std, expected.float(), rtol=1e-5, atol=1e-5)


SMALL = ViTConfig(image_size=(16, 16), patch_size=4, dim=24, depth=2, heads=2, mlp_dim=40, classes=4)
OURS = {
    "vit": {},
    "oblong": {"image_size": (8, 24), "patch_size": 8, "channels": 1, "activation": "gelu_tanh", "norm_eps": 0.1},
    "deit": {"registers": 1, "classes": 7},
    "taught": {"distill_token": True, "depth": 3, "heads": 3},
}


def made(**settings: Any) -> ImportedModel:
    """A model of ours with weights of no special kind."""
    config = ViTConfig(**{**SMALL.model_dump(), **settings})
    state = redrawn(VisionTransformer(config)).state_dict()
    half = (0.5,) * config.channels
    return ImportedModel(config, state, tuple(f"class {i}" for i in range(config.classes)), half, half)


def written(foreign: ImportedModel, folder: Path) -> Logits:
    """Their model, made of ours as is said there, and of every weight that was written."""
    outgoing = huggingface.write(foreign)
    save_file(outgoing.tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(outgoing.settings))
    (folder / "preprocessor_config.json").write_text(json.dumps(outgoing.preprocessing))
    usage = outgoing.usage.replace(")", ", output_loading_info=True)")
    model, report = eval(usage, {"transformers": transformers, "PATH": folder})
    assert not any(report[each] for each in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return Logits(model.eval())


@pytest.mark.parametrize("name", OURS)
def test_ours_answers_the_same_there(name: str, tmp_path: Path) -> None:
    foreign = made(**OURS[name])
    theirs = written(foreign, tmp_path)
    assert difference(foreign, theirs) <= EXACT
    assert theirs.model.config.id2label == dict(enumerate(foreign.classes))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    pixels = torch.zeros(foreign.config.channels, 50, 40, dtype=torch.uint8)
    fed = processor(pixels, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(fed, torch.full((1, foreign.config.channels, *foreign.config.image_size), -1.0))
    again = converted(tmp_path)
    assert (again.config, again.classes) == (foreign.config, foreign.classes)
    assert again.mean == pytest.approx(foreign.mean)
    torch.testing.assert_close(again.state, dict(foreign.state), rtol=0, atol=0)


def test_ours_without_head_is_theirs_without(tmp_path: Path) -> None:
    foreign = replace(made(), head=False)
    theirs = written(foreign, tmp_path)
    batch = images(foreign)
    with torch.inference_mode():
        assert (ours(foreign)(batch) - theirs(batch)[:, 0]).abs().max() <= EXACT
    assert not converted(tmp_path).head


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"pool": "mean"}, "pooling by a mean"),
        ({"pool": "seq"}, "pool 'seq'"),
        ({"registers": 2}, "two or more registers"),
        ({"registers": 1, "distill_token": True}, "registers beside a distillation token"),
        ({"layer_scale": 0.1}, "layer scale"),
        ({"qk_norm": True}, "normalized queries and keys"),
        ({"tokenizer": "conv"}, "a tokenizer 'conv'"),
        ({"head_dim": 16}, "heads 16 wide"),
        ({"pre_norm": True}, "a norm before the first block"),
        ({"representation": 8}, "representation"),
        ({"norm": "batch"}, "batch norm"),
    ],
)
def test_what_their_models_do_not_have_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=f"Hugging Face has no models with .*{named}"):
        huggingface.write(made(**settings))
