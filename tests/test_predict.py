"""`compress predict`: the classes that a model gives, from every file and in every engine, and refusals in one line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, Run
from PIL import Image

from baselines.images import decode
from baselines.resizing import STRETCHED
from baselines.sources import load
from baselines.vit import VisionTransformer, ViTConfig
from compress import loading, variant
from compress.cli import main
from compress.importers import LAYOUTS, Hints, ImportedModel
from compress.verbs.predict import BATCH

Say = Callable[..., list[list[str]]]
Refused = Callable[..., str]
COUNT = BATCH + 1  # a batch, and one image that is left


@pytest.fixture(scope="module")
def pictures(run: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Test images as PNG files: those of whose class all three models are surest, so that rounding changes none."""
    data = load("digits", (8, 8), 1)
    sure = torch.ones(len(data.test.labels))
    for name in ("vit", "avit", "avit_int8"):
        sure = torch.minimum(sure, expected(run.checkpoint(name)).max(1).values)
    folder, paths = tmp_path_factory.mktemp("pictures"), []
    for index in sure.argsort(descending=True)[:COUNT].tolist():
        paths.append(folder / f"{index}.png")
        Image.fromarray(data.test.images[index, 0].numpy()).save(paths[-1])  # type: ignore[attr-defined]
    return paths


@torch.inference_mode()
def expected(path: Path) -> torch.Tensor:
    """Probabilities that a model gives the test images, (n, classes), asked itself."""
    model, which, content = loading.restore(path)
    data = load("digits", content.config.image_size, 1).with_normalization(content.mean, content.std)
    images = torch.cat([batch for batch, _ in data.batches(data.test, 360, torch.device("cpu"))])
    return variant.convert(model, which.methods)(images).softmax(1)


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Say:
    """Runs `compress predict`, and gives what it prints, in words."""

    def ask(model: Path, images: list[Path], *args: object) -> list[list[str]]:
        assert main(["predict", str(model), *map(str, images), *map(str, args)]) == 0
        out, err = capfd.readouterr()
        assert err == ""
        return [line.split() for line in out.splitlines()]

    return ask


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Refused:
    def ask(*args: object) -> str:
        assert main(["predict", *map(str, args)]) == 2
        out, err = capfd.readouterr()
        assert (out, err.count("\n"), err.startswith("error: ")) == ("", 1, True), err
        return err

    return ask


def artifact(run: Run, name: str) -> Path:
    return next(run.out.glob(f"models/*/{name}"))


@pytest.mark.parametrize(
    ("file", "runtime"),
    [
        ("vit.pth", "torch"),
        ("vit.pth", "torch.compile"),
        ("avit.onnx", "auto"),
        ("avit_int8.onnx", "auto"),
        ("avit.onnx", "openvino"),
        ("avit_int8.onnx", "openvino"),
    ],
)
def test_every_file_in_every_engine_gives_the_classes_of_its_model(
    file: str, runtime: str, run: Run, pictures: list[Path], said: Say
) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    pictures = pictures[:1] if runtime == "torch.compile" else pictures  # every size of a batch is compiled by itself
    header, *rows, last = said(artifact(run, file), pictures, "--top", 2, "--runtime", runtime)
    assert header == ["image", "class", "probability"]
    assert [Path(row[0]).name for row in rows] == [path.name for path in pictures for _ in "12"]
    engine = {"auto": "onnxruntime"}.get(runtime, runtime)
    assert last[2:5] == [engine, "on", "cpu:"]
    known = expected(run.checkpoint(file.partition(".")[0]))
    for path, first, second in zip(pictures, rows[::2], rows[1::2], strict=True):
        values = known[int(path.stem)]
        top = values.topk(2)
        assert first[1] == str(top.indices[0].item())
        close = 5.0 if "int8" in file else 0.006  # percent; it is printed with two decimals
        assert float(first[2].rstrip("%")) == pytest.approx(100 * top.values[0].item(), abs=close)
        assert float(first[2].rstrip("%")) >= float(second[2].rstrip("%"))


def test_the_command_itself_in_a_pipe(run: Run, pictures: list[Path]) -> None:
    command = [sys.executable, "-m", "compress", "predict", str(artifact(run, "vit.onnx")), str(pictures[0])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + 5 + 1
    assert all(len(line.split()) == 3 and "\x1b" not in line for line in lines[:-1])
    assert lines[-1].startswith("1 image, onnxruntime on cpu: ")


# --- checkpoints of other libraries


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT as timm's weights say it: neither heads, nor names of classes, nor how images are normalised."""
    torch.manual_seed(0)
    config = ViTConfig(image_size=(8, 8), patch_size=4, dim=16, depth=1, heads=2, mlp_dim=16, norm_eps=1e-6)
    model = VisionTransformer(config)
    model.head.weight.data *= 20
    (write,) = (family.write for family in LAYOUTS if family.name == "timm")
    assert write is not None
    path = tmp_path_factory.mktemp("foreign") / "timm.pth"
    torch.save(write(ImportedModel(config, model.state_dict())).tensors, path)
    return path


def test_what_a_foreign_checkpoint_does_not_say(
    foreign: Path, pictures: list[Path], said: Say, refused: Refused
) -> None:
    image = pictures[0]
    assert "--heads" in refused(foreign, image)
    assert all(word in refused(foreign, image, "--heads", 2) for word in ("--normalize", "imagenet, half, clip"))
    assert "--normalize" in refused(foreign, image, "--heads", 2, "--normalize", "data")
    model = loading.restore(foreign, Hints(heads=2))[0]
    with torch.inference_mode():
        values = model((decode(image, (8, 8), 3, STRETCHED)[None] / 255 - 0.5) / 0.5).softmax(1)[0]
    _, *rows, _ = said(foreign, [image], "--heads", 2, "--normalize", "half")
    assert [row[1:] for row in rows] == [[str(i), f"{values[i].item():.2%}"] for i in values.topk(5).indices.tolist()]


# --- refusals


@pytest.fixture
def changed(run: Run, tmp_path: Path) -> Callable[..., Path]:
    """The ONNX file of `vit` with other metadata; None removes an entry."""

    def change(**metadata: str | None) -> Path:
        proto = onnx.load(artifact(run, "vit.onnx"))
        found = {entry.key: entry.value for entry in proto.metadata_props} | metadata
        del proto.metadata_props[:]
        onnx.helper.set_model_props(proto, {name: value for name, value in found.items() if value is not None})
        onnx.save(proto, tmp_path / "changed.onnx")
        return tmp_path / "changed.onnx"

    return change


def test_metadata_that_lie_or_lack(changed: Callable[..., Path], pictures: list[Path], refused: Refused) -> None:
    image = pictures[0]
    sentence = refused(changed(mean=None, classes=None), image)
    assert all(word in sentence for word in ("not exported by compress", "lacks classes, mean", "compress export"))
    assert "no JSON" in refused(changed(std="[0.3"), image)
    assert "'image_size.0'" in refused(changed(image_size="[100000, 8]"), image)
    assert "1 or 3 channels" in refused(changed(mean="[0.1, 0.1]", std="[1, 1]"), image)
    assert "'std.0'" in refused(changed(std="[0.0]"), image)
    assert "names 2 classes, but gives 1 x 10" in refused(changed(classes='["a", "b"]'), image)
    sentence = refused(changed(image_size="[6, 6]"), image)  # what the engine says, in one line
    assert "cannot be run in onnxruntime" in sentence


def test_names_of_classes_are_shown_as_they_are(
    changed: Callable[..., Path], pictures: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    names = ["[red]a", ":smile:", "\x1b[31mb", *(f"c{i}" for i in range(7))]
    assert main(["predict", str(changed(classes=json.dumps(names))), str(pictures[0]), "--top", "99"]) == 0
    out = capfd.readouterr().out
    assert "\x1b" not in out
    assert {"[red]a", ":smile:", "[31mb", "c6"} <= set(out.split())


def test_files_that_are_none_and_options_that_do_not_fit(
    run: Run, pictures: list[Path], refused: Refused, tmp_path: Path
) -> None:
    graph, weights, image = artifact(run, "vit.onnx"), artifact(run, "vit.pth"), pictures[0]
    assert "photos/*.jpg" in refused(graph, tmp_path / "no.png")
    assert f"{tmp_path} is a folder; give image files" in refused(graph, tmp_path)
    assert "not a readable image" in refused(graph, weights)
    for name in ("no.onnx", "no.xml", "no.pth"):
        assert name in refused(tmp_path / name, image)
    (tmp_path / "cut.onnx").write_bytes(graph.read_bytes()[:3000])
    assert "cut.onnx is no ONNX file, or is" in refused(tmp_path / "cut.onnx", image)
    (tmp_path / "alone.xml").write_text(
        '<net><layers><layer><data element_type="f32" offset="0" size="4"/></layer></layers></net>'
    )
    assert "alone.bin" in refused(tmp_path / "alone.xml", image)
    assert "'warp'" in refused(graph, image, "--runtime", "warp")
    sentence = refused(weights, image, "--runtime", "openvino")
    assert all(word in sentence for word in ("torch and torch.compile", f"compress export {weights} --to openvino"))
    assert "onnxruntime and openvino" in refused(graph, image, "--runtime", "torch")
    assert "leave them out" in refused(graph, image, "--heads", 2)
    assert "--top" in refused(graph, image, "--top", 0)


def test_weights_that_are_not_finite(changed: Callable[..., Path], pictures: list[Path], refused: Refused) -> None:
    path = changed()
    proto = onnx.load(path)
    (bias,) = (each for each in proto.graph.initializer if each.name == "head.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
    onnx.save(proto, path)
    assert "not finite" in refused(path, pictures[0])
