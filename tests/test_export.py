"""The way back out: `compress export --to` an engine, our safetensors, or the library that a model came from."""

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from conftest import Run
from safetensors import safe_open

from baselines.sources import load
from baselines.vit import VisionTransformer, ViTConfig
from compress import loading, runtimes, variant
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import Checkpoint
from compress.checkpoints.serialization import serialize_safetensors
from compress.cli import main
from compress.exporters import libraries
from compress.exporters.onnx import convert_for_onnx, export_onnx
from compress.importers.base import ExportedModel
from compress.methods import METHODS, Bf16, Distill, Method, Narrow, TopK
from compress.runtimes import BuildInputs
from compress.runtimes.graph_files import read_graph_file
from compress.training import finetuning
from compress.training.data import sample_parity_images
from compress.verbs.predict import read_feed

CLASSES = ("cat", "dog", "eel")
CONFIG = ViTConfig(image_size=(16, 16), patch_size=4, dim=32, depth=2, heads=2, mlp_dim=48, classes=3)
Refused = Callable[..., str]


def made(path: Path, methods: Sequence[Method] = (), **sizes: Any) -> tuple[Path, VisionTransformer]:
    """A checkpoint on disk, all of whose weights matter, and its model."""
    torch.manual_seed(0)
    model = VisionTransformer(ViTConfig(**{**CONFIG.model_dump(), **sizes}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model = variant.prepare(model, methods).eval()
    described = tuple(variant.Variant(tuple(methods)).describe())
    names = CLASSES if model.config.classes == len(CLASSES) else tuple(map(str, range(model.config.classes)))
    deviation = (0.25,) * model.config.channels
    content = Checkpoint(model.config, described, model.state_dict(), "pets", names, (0.5,) * len(deviation), deviation)
    checkpoint.save(path, content)
    return path, model


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Refused:
    def ask(*args: object, code: int = 2) -> str:
        assert main(["export", *map(str, args)]) == code
        out, err = capfd.readouterr()
        assert (out, err.count("\n"), err.startswith("error: ")) == ("", 1, True), err
        return err

    return ask


def largest_difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).abs().max() / expected.abs().max()).item()


# --- libraries


@pytest.mark.parametrize(
    ("name", "package", "out"),
    [
        ("timm", "timm", None),
        ("timm", "timm", "deep/weights.pth"),
        ("torchvision", "torchvision", None),
        ("huggingface", "transformers", None),
    ],
)
@torch.no_grad()
def test_the_python_that_is_printed_makes_the_same_model(
    name: str, package: str, out: str | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    path, model = made(tmp_path / "pets.pth")
    target = tmp_path / (out or {"huggingface": "pets.huggingface"}.get(name, f"pets.{name}.safetensors"))
    assert main(["export", str(path), "--to", name, *(["--out", str(target)] if out else [])]) == 0
    told, code = capfd.readouterr().out.split("\n\n", 1)
    assert told.startswith(f"wrote {target} (")
    assert "16 x 16, pixels in [0, 1]: mean 0.5, 0.5, 0.5, deviation 0.25, 0.25, 0.25" in code
    scope: dict[str, Any] = {}
    exec(code, scope)
    images = torch.randn(5, 3, 16, 16)
    assert largest_difference(getattr(got := scope["model"](images), "logits", got), model(images)) <= 1e-5
    if target.is_dir():
        assert {each.name for each in target.iterdir()} == {
            "config.json",
            "preprocessor_config.json",
            "model.safetensors",
        }
    if target.suffix == ".safetensors":
        with safe_open(target, framework="pt") as file:
            assert json.loads(file.metadata()["classes"]) == list(CLASSES)


@pytest.mark.parametrize("methods", [[Distill()], [Narrow(macs=0.6)], [Bf16()]], ids=lambda methods: methods[0].name)
@torch.no_grad()
def test_methods_that_leave_a_plain_model_do_not_stand_in_the_way(methods: list[Method], tmp_path: Path) -> None:
    path, model = made(tmp_path / "pets.pth", methods, norm_eps=1e-6)  # torchvision's own: weights alone do not say it
    assert main(["export", str(path), "--to", "torchvision", "--out", str(tmp_path / "out.pth")]) == 0
    again = loading.restore(tmp_path / "out.pth", checkpoint.Hints(heads=2))[0]
    images = torch.randn(5, 3, 16, 16)
    assert again.config.dim == model.config.dim
    same = 0.05 if methods == [Bf16()] else 1e-5  # bf16 rounds what it multiplies too
    assert largest_difference(again(images), model(images)) <= same


def test_models_that_a_library_cannot_have(run: Run, refused: Refused, tmp_path: Path) -> None:
    path, _ = made(tmp_path / "topk.pth", [TopK()])
    before = set(tmp_path.rglob("*"))
    for name in libraries.list_families():
        sentence = refused(path, "--to", name)
        assert all(word in sentence for word in ("'topk'", name, "all tokens in every block", "--to safetensors"))
        sentence = refused(run.checkpoint("avit_int8"), "--to", name)
        assert all(word in sentence for word in ("'avit_int8'", "weights in int8", "--to safetensors"))
        assert "'conv'" in refused(run.checkpoint(), "--to", name)  # a tokenizer of convolutions
    assert set(tmp_path.rglob("*")) == before


def test_what_is_not_read_back_as_the_same_model_is_not_written(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = made(tmp_path / "pets.pth")
    family = libraries.list_families()["timm"]

    def spoilt(change: Callable[[dict[str, torch.Tensor]], object]) -> None:
        def write(foreign: Any) -> ExportedModel:
            assert family.write is not None
            outgoing = family.write(foreign)
            tensors = {name: value.clone() for name, value in outgoing.tensors.items()}
            change(tensors)
            return replace(outgoing, tensors=tensors)

        monkeypatch.setattr(libraries, "list_families", lambda: {"timm": replace(family, write=write)})

    spoilt(lambda tensors: tensors["head.bias"].add_(1e-3))
    assert "other logits" in refused(path, "--to", "timm", code=1)
    spoilt(lambda tensors: tensors.pop("norm.weight"))
    assert "cannot be read back" in refused(path, "--to", "timm", code=1)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_places(refused: Refused, tmp_path: Path) -> None:
    path, _ = made(tmp_path / "pets.safetensors")
    assert "'tflite'" in (said := refused(path, "--to", "tflite"))
    assert all(name in said for name in ("onnx, openvino, safetensors", "huggingface", "timm", "torchvision"))
    assert ".safetensors or .pth" in refused(path, "--to", "timm", "--out", tmp_path / "folder")
    assert "writes a folder" in refused(path, "--to", "huggingface", "--out", tmp_path / "a.safetensors")
    assert "must end in .xml" in refused(path, "--to", "openvino", "--out", tmp_path / "a.onnx")
    assert "would be replaced" in refused(path, "--to", "safetensors")
    assert "would be replaced" in refused(path, "--to", "timm", "--out", path)
    assert "could not be written" in refused(path, "--to", "huggingface", "--out", path / "inside")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


# --- our own, as safetensors


@pytest.mark.parametrize("converted", [False, True], ids=["trained", "converted"])
@pytest.mark.parametrize("kind", METHODS.values(), ids=lambda kind: kind.name)
@torch.no_grad()
def test_any_variant_is_the_same_as_safetensors(kind: type[Method], converted: bool, tmp_path: Path) -> None:
    images, which = torch.randn(8, 3, 16, 16), variant.Variant((kind(),))
    path, model = made(tmp_path / "model.pth", which.methods)
    finetuning.calibrate(model, which.methods, [images], torch.device("cpu"))
    content = replace(checkpoint.load(path), state=model.state_dict(), calibration={"images": 8, "sha256": "ab"})
    if converted:
        runtimes.get("torch").build(BuildInputs(model, which, content, images), path)
    else:
        checkpoint.save(path, content)
    assert main(["export", str(path), "--to", "safetensors"]) == 0
    first, second = (loading.restore(each) for each in (path, path.with_suffix(".safetensors")))
    assert torch.equal(first[0](images), second[0](images))
    assert first[1] == second[1]
    assert second[2].state.keys() == first[2].state.keys()
    assert replace(first[2], state={}, methods=()) == replace(second[2], state={}, methods=())


def test_metadata_of_a_safetensors_file_that_are_damaged(refused: Refused, tmp_path: Path) -> None:
    path, model = made(tmp_path / "model.pth")
    checkpoint.save(path.with_suffix(".safetensors"), checkpoint.load(path))
    with safe_open(path.with_suffix(".safetensors"), framework="pt") as file:
        whole = dict(file.metadata())
    for name, text, words in (
        ("mean", "[0.5", "no JSON"),
        ("config", "[" * 100_000, "no JSON"),
        ("classes", '["cat"]', "1 names for 3 classes"),
        ("methods", "7", "damaged"),
    ):
        broken = tmp_path / f"{name}.safetensors"
        broken.write_bytes(serialize_safetensors(model.state_dict(), {**whole, name: text}))
        assert words in refused(broken, "--to", "timm")
    lacking = {name: text for name, text in whole.items() if name != "std"}
    broken.write_bytes(serialize_safetensors(model.state_dict(), lacking))
    assert "no 'std'" in refused(broken, "--to", "timm")


# --- engines


def test_metadata_say_how_to_feed_a_file_of_any_variant(run: Run) -> None:
    content = checkpoint.load(run.checkpoint())
    for name in ("vit", "avit", "avit_int8"):
        graph = next(run.out.glob(f"models/*/{name}.onnx"))
        metadata, feed = read_graph_file(graph).metadata, read_feed(graph)
        assert (feed.classes, feed.mean, feed.std) == (content.classes, content.mean, content.std)
        assert feed.image_size == content.config.image_size
        assert metadata["methods"] == json.dumps(checkpoint.load(run.checkpoint(name)).methods)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_files_say_the_same_and_take_float32_images(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "deep" / "avit.xml"
    assert main(["export", str(run.checkpoint("avit")), "--to", "openvino", "--out", str(target)]) == 0
    assert "images in batches of 1, 2 and 7: same class on" in capfd.readouterr().out
    assert sorted(each.name for each in target.parent.iterdir()) == ["avit.bin", "avit.xml", "avit.xml.json"]
    graph = next(run.out.glob("models/*/avit.onnx"))
    assert read_graph_file(target).metadata == read_graph_file(graph).metadata
    size = sum(4 * value.numel() for value in checkpoint.load(run.checkpoint("avit")).state.values())
    assert target.with_suffix(".bin").stat().st_size >= size


def test_openvino_that_is_not_installed(
    run: Run, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "openvino" else find(name, *rest)
    )
    sentence = refused(run.checkpoint(), "--to", "openvino", "--out", tmp_path / "a.xml")
    assert "pip install openvino" in sentence


def test_bf16_of_a_new_geometry_becomes_onnx(tmp_path: Path) -> None:
    """The geometry in the file is what `narrow` made, and is not made narrower again."""
    path, _ = made(tmp_path / "model.pth", [Narrow(macs=0.6), Bf16()], channels=1, classes=10)
    data = load("digits", (16, 16), 1)
    model, which, content = loading.restore(path)
    export_onnx(convert_for_onnx(model, which, content), tmp_path / "a.onnx", sample_parity_images(data), content)
    heads = [each.dims for each in onnx.load(tmp_path / "a.onnx").graph.initializer if each.name == "cls_token"]
    assert [list(dims) for dims in heads] == [[1, 1, content.geometry.dim]]


def test_a_model_whose_logits_are_all_zero_equals_itself(tmp_path: Path) -> None:
    path, model = made(tmp_path / "model.pth")
    for parameter in model.head.parameters():
        torch.nn.init.zeros_(parameter)
    images = torch.randn(10, model.config.channels, *model.config.image_size)
    parity = export_onnx(model, tmp_path / "model.onnx", images, checkpoint.load(path))
    assert (parity.max_difference, parity.agreement) == (0.0, 1.0)
