"""Weights in several files with an index: they answer as the library's model does, and no path leaves the folder."""

import json
from pathlib import Path

import pytest
import torch
from foreign_models import EXACT, converted, difference
from huggingface_models import save
from safetensors.torch import load_file, save_file

from baselines.errors import InputError
from compress.checkpoints import checkpoint

INDEX = "model.safetensors.index.json"


def change(folder: Path, name: str, place: str) -> None:
    """Has the index say that a weight lies elsewhere."""
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][name] = place
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize("binary", [False, True])
def test_parts_answer_as_the_whole(binary: bool, tmp_path: Path) -> None:
    theirs = save(tmp_path, max_shard_size="20KB")
    parts = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(parts) > 2
    if binary:  # as transformers wrote them before
        text = (tmp_path / INDEX).read_text().replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
        (tmp_path / "pytorch_model.bin.index.json").write_text(text)
        for part in parts:
            torch.save(load_file(part), tmp_path / f"pytorch_{part.stem}.bin")
            part.unlink()
        (tmp_path / INDEX).unlink()
    assert difference(converted(tmp_path), theirs) <= EXACT
    assert checkpoint.load(tmp_path).config.classes == 5
    for part in (*tmp_path.glob("*-00001-of-*"), *tmp_path.glob("*.index.json")):
        with pytest.raises(InputError, match=f"give the folder of all: {tmp_path}"):
            converted(part)


@pytest.mark.parametrize(
    "place", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..\\b.safetensors", ".safetensors", "b.txt"]
)
def test_an_index_names_files_of_its_own_folder_alone(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(folder, max_shard_size="20KB")
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    change(folder, "x", place)
    with pytest.raises(InputError, match="asks for a file outside its own folder"):
        converted(folder)


def test_what_does_not_hold_what_its_index_says(tmp_path: Path) -> None:
    save(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / INDEX).read_text())
    first, *_, last = sorted(set(index["weight_map"].values()))
    change(tmp_path, "ghost", first)
    with pytest.raises(InputError, match=f"{first} lacks ghost"):
        converted(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps(index))
    save_file(load_file(tmp_path / first) | load_file(tmp_path / last), tmp_path / last)
    with pytest.raises(InputError, match="as another part does"):
        converted(tmp_path)
    (tmp_path / last).unlink()
    with pytest.raises(InputError, match=f"lacks {last}, which its index names"):
        converted(tmp_path)
    for text in ("[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', "{"):
        (tmp_path / INDEX).write_text(text)
        with pytest.raises(InputError, match=INDEX):
            converted(tmp_path)
