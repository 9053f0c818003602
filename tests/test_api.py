"""compress in a program: modules of other libraries, loaders and arrays in; rows, files and callables out."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.models
import torch
import torchvision
import transformers
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import compress
from baselines.errors import InputError
from baselines.vit import VisionTransformer, ViTConfig
from compress.api import datasets
from compress.api.models import describe_vit, write_checkpoint

SHAPE = (3, 16, 16)
CLASSES = 5


def make_timm(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    size = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
    return timm.models.VisionTransformer(**{**size, **changes}).eval()


def make_torchvision() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.VisionTransformer(16, 8, 2, 2, 32, 64, num_classes=CLASSES).eval()


def make_huggingface() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=CLASSES)  # type: ignore[arg-type]
    return transformers.ViTForImageClassification(config).eval()


class Louder(timm.models.VisionTransformer):
    """Weights as timm's, and other answers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x)


class Convolutions(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


def answer(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        out = model(images)
    return getattr(out, "logits", out)


def make_images(model: nn.Module, count: int = 120) -> TensorDataset:
    """Noise, each image of the class that the model says it is."""
    images = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))
    return TensorDataset(images, answer(model, images).argmax(1))


# --- models


@pytest.mark.parametrize("make", [make_timm, make_torchvision, make_huggingface])
def test_a_vision_transformer_of_another_library_becomes_ours_without_a_word(make, tmp_path: Path) -> None:
    known = describe_vit(make(), None)
    assert known is not None
    assert (known.config.classes, known.config.image_size) == (CLASSES, (16, 16))
    source = write_checkpoint(make(), tmp_path)
    assert compress.load(_with_facts(source.path), threads=1)(torch.ones(1, *SHAPE)) == pytest.approx(
        answer(make(), torch.ones(1, *SHAPE)).numpy(), abs=1e-4
    )


def _with_facts(path: Path) -> Path:
    """The checkpoint with a normalization, which engines need not know and people do."""
    from dataclasses import replace

    from compress.checkpoints import checkpoint

    content = replace(checkpoint.load(path), mean=(0.5,) * 3, std=(0.5,) * 3, classes=tuple("abcde"))
    checkpoint.save(path, content)
    return path


def test_what_answers_otherwise_than_its_names_say_stays_the_code_that_it_is() -> None:
    model = Louder(img_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=CLASSES)
    assert describe_vit(model, None) is None
    assert describe_vit(Convolutions(), (16, 16)) is None


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a model is a path or an nn\.Module, not dict"):
        compress.quantize({}, out=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--image-size"):
        write_checkpoint(Convolutions(), tmp_path)


# --- data sets


def read_all(split: Any) -> Tensor:
    return torch.cat([*split.fetch([torch.arange(len(split.labels))], torch.device("cpu"))])


def test_every_kind_of_data_set_gives_the_same_images_and_labels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(10) % CLASSES
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        (tmp_path / f"class{label}").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / f"class{label}" / f"{index}.png")
    folder = torchvision.datasets.ImageFolder(str(tmp_path))
    rows = [{"image": image, "label": label} for image, label in zip(pixels, labels, strict=True)]
    whole = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    kinds = {
        "arrays": (pixels, labels),
        "tensors": TensorDataset(whole, torch.from_numpy(labels)),
        "loader": DataLoader(TensorDataset(whole, torch.from_numpy(labels)), batch_size=3, shuffle=True),
        "mappings": rows,
        "part": Subset(TensorDataset(whole.repeat(2, 1, 1, 1), torch.from_numpy(labels).repeat(2)), range(10)),
    }
    for name, given in kinds.items():
        split = datasets.make_split(given, SHAPE)
        assert torch.equal(read_all(split), whole), name
        assert split.labels.tolist() == labels.tolist(), name
    split = datasets.make_split(folder, SHAPE)
    order = [int(Path(path).stem) for path, _ in folder.samples]
    assert torch.equal(read_all(split), whole[order])
    data = datasets.make_data(folder, None, SHAPE, tmp_path)
    assert data.classes == tuple(f"class{label}" for label in range(CLASSES))
    assert (len(data.train.labels), len(data.test.labels), data.normalized) == (8, 2, False)
    assert not {*map(bytes, read_all(data.train).numpy())} & {*map(bytes, read_all(data.test).numpy())}


def test_float_images_are_taken_as_they_are_and_bytes_are_normalized() -> None:
    values = torch.randn(10, *SHAPE)
    transform = torchvision.transforms.Normalize((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    source: Any = TensorDataset(values, torch.arange(10) % 2)
    source.transform = torchvision.transforms.Compose([transform])
    data = datasets.make_data(source, source, SHAPE, Path())
    (images, _), *_ = data.batches(data.test, 10, torch.device("cpu"))
    assert torch.equal(images, values)
    assert (data.mean, data.std, data.normalized) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), True)
    again = data.with_normalization((0.5,) * 3, (0.5,) * 3)
    assert torch.equal(next(again.batches(again.test, 10, torch.device("cpu")))[0], values)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (TensorDataset(torch.zeros(4, 3, 8, 8), torch.zeros(4)), "image 0 of the data set is 3x8x8, the model takes"),
        ([{"pixels": 1}, {"pixels": 2}, {"pixels": 3}], "none of labels, label"),
        (iter([]), "has no length"),
    ],
)  # fmt: skip
def test_data_sets_that_do_not_fit_are_refused(given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        datasets.make_data(given, None, SHAPE, Path())


# --- verbs


def test_quantize_gives_rows_and_a_file_that_can_be_called(tmp_path: Path) -> None:
    model = make_timm()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = make_images(model)
    options: dict[str, Any] = {
        "runtimes": ("onnxruntime",),
        "mode": "static",
        "threads": 1,
        "seconds": 0.1,
        "calibration_images": 32,
    }
    result = compress.quantize(model, DataLoader(images, 32), test=images, verbose=False, max_drop=100.0, **options)
    assert next((row.variant, row.runtime) for row in result.rows) == ("vit", "torch")
    assert result.rows[0].top1 == 1.0
    assert result.kept is not None
    assert (result.kept.variant, result.kept.executed, result.runtime) == ("int8", "int8", "onnxruntime")
    assert len(result.frame) == len(result.rows)
    assert result.frame["top1"][result.rows.index(result.kept)] == result.kept.top1
    assert "<table>" in result._repr_html_()
    assert str(result).startswith("kept: ")
    logits = result.model(images.tensors[0])
    assert result.kept.n_images == len(images) // 2  # the other half judged what may be lost
    wrong = (logits.argmax(1) != images.tensors[1].numpy()).sum()
    assert round((1 - result.kept.top1) * result.kept.n_images) <= wrong <= len(images) // 10
    saved = result.save(tmp_path / "small")
    assert saved == tmp_path / "small.onnx"
    with compress.load(saved, threads=1) as again:
        assert np.array_equal(again(images.tensors[0]), logits)
        with pytest.raises(InputError, match=r"small.onnx takes images \(n, 3, 16, 16\), not \(2, 16, 16\)"):
            again(np.zeros((2, 16, 16)))
    with pytest.raises(InputError, match=r"let its name end in \.onnx"):
        result.save(tmp_path / "small.pth")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    place = result.folder
    del result, again
    assert not place.exists()


def test_a_module_of_the_programs_own_is_measured_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Convolutions().eval()
    images = make_images(model)
    options: dict[str, Any] = {"batch_sizes": (1,), "threads": 1, "seconds": 0.0}
    result = compress.bench(
        model, images, variants="convolutions,int8", runtimes=("onnxruntime",), image_size=16, out=tmp_path,
        verbose=False, **options,
    )  # fmt: skip
    rows = {row.variant: row for row in result.rows}
    assert {name: (row.executed, row.failed) for name, row in rows.items()} == {
        "convolutions": ("fp32", None),
        "convolutions_int8": ("int8", None),
    }
    assert rows["convolutions"].top1 == 1.0
    assert (tmp_path / "report.md").is_file()


def test_prune_export_and_predict(tmp_path: Path) -> None:
    model = make_timm(img_size=32)
    images = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(images, answer(model, images).argmax(1))
    result = compress.prune(model, data, method="topk", keep=0.5, threads=1, out=tmp_path, verbose=False)
    assert [row.variant for row in result.rows] == ["vit", "topk"]
    before, after = (row.macs_per_image for row in result.rows)
    assert after < before  # type: ignore[operator]
    assert result.path is not None
    with compress.load(result.path, threads=1) as pruned:
        assert pruned(images).shape == (40, CLASSES)

    written = compress.export(model, data, out=tmp_path / "model.onnx", verbose=False)
    (first, *_) = compress.predict(written, images[:3], top=2)
    wanted = answer(model, images[:1]).softmax(1)[0]
    assert first[0] == (str(int(wanted.argmax())), pytest.approx(float(wanted.max()), abs=1e-4))
    assert len(first) == 2


def test_distill_trains_a_student_on_arrays(tmp_path: Path) -> None:
    teacher = make_timm()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(60) % CLASSES
    student = ViTConfig(image_size=16, patch_size=8, dim=16, depth=1, heads=1, mlp_dim=16, classes=CLASSES)  # type: ignore[arg-type]
    result = compress.distill(
        teacher, VisionTransformer(student), (pixels, labels), out=tmp_path, device="cpu", verbose=False, epochs=1,
        batch_size=16, warmup_epochs=0.1,
    )  # fmt: skip
    assert result.path is not None
    with compress.load(result.path, threads=1) as trained:
        assert trained.classes == tuple("01234")


def test_importing_compress_waits_for_torch_until_something_is_asked_for() -> None:
    code = "import sys, compress; early = 'torch' in sys.modules; compress.export; print(early, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        compress.quantise  # type: ignore[attr-defined]  # noqa: B018
