"""Images of other sizes become the same pixels here as in the library that a checkpoint comes from, to one level."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import timm.data
import torch
import torchvision
import transformers
from PIL import Image
from rich.console import Console
from timm.models._hub import save_for_hf

from baselines import sources
from baselines.errors import InputError
from baselines.images import decode
from baselines.resizing import Resizing, from_crop_share
from compress.checkpoints import checkpoint
from compress.importers import Hints, parse_resizing
from compress.importers.preprocessing import read_huggingface, read_torchvision, write_huggingface
from compress.verbs.export import export
from compress.verbs.predict import open_model, read_feed

SIZES = [(96, 36), (37, 61), (32, 32), (20, 20), (21, 83), (400, 33)]  # width, height
MEAN = (0.3, 0.5, 0.7)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Smooth coloured images with an edge in the middle, so that a shift of a pixel shows."""
    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for width, height in SIZES:
        y, x = np.mgrid[:height, :width]
        channels = [120 + 100 * np.sin(x / 7 + k) * np.cos(y / (5 + k)) + 30 * (x > width / 2) for k in range(3)]
        paths.append(folder / f"{width}x{height}.png")
        Image.fromarray(np.stack(channels, -1).clip(0, 255).astype(np.uint8)).save(paths[-1])
    return paths


def differ(photos: list[Path], ours: Resizing, theirs: Callable[[Image.Image], Any], size: tuple[int, int]) -> int:
    """Levels, at most."""
    found = [
        np.abs(decode(path, size, 3, ours).numpy().astype(int) - np.asarray(theirs(Image.open(path))).astype(int)).max()
        for path in photos
    ]
    return max(found)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("share", [0.875, 0.9, 1.0])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_as_timm(photos: list[Path], mode: str, share: float, interpolation: Any, size: tuple[int, int]) -> None:
    theirs: Any = timm.data.create_transform(
        (3, *size), crop_pct=share, crop_mode=mode, interpolation=interpolation, mean=MEAN, normalize=False
    )
    ours = from_crop_share(size, share, mode, interpolation, MEAN)
    assert differ(photos, ours, theirs, size) == 0


@pytest.mark.parametrize("builder", ["vit_b_16", "vit_l_16", "vit_h_14"])
def test_as_torchvision(photos: list[Path], builder: str) -> None:
    for weights in torchvision.models.get_model_weights(builder):
        said: Any = weights.transforms()
        known = read_torchvision(weights.url.rsplit("/", 1)[-1])
        mean, std = (torch.tensor(known[name])[:, None, None] for name in ("mean", "std"))

        def theirs(image: Image.Image, said: Any = said, mean: Any = mean, std: Any = std) -> Any:
            return ((said(image) * std + mean) * 255).round()

        assert differ(photos, known["resizing"], theirs, known["image_size"]) == 0
        assert len(known["classes"]) == 1000
    assert read_torchvision(f"{builder}.pth") == {}


HUGGINGFACE: list[dict[str, Any]] = [
    {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "resample": 2},
    {"image_processor_type": "ViTImageProcessor", "size": 32, "resample": 3},
    {"image_processor_type": "DeiTImageProcessor", "size": {"height": 36, "width": 36},
     "do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "resample": 3},
    {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 37},
     "do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "resample": 3},
    {"image_processor_type": "CLIPImageProcessor", "size": 35, "crop_size": 32, "resample": 3},
    {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 35}, "crop_size": 32, "resample": 2},
]  # fmt: skip


@pytest.mark.parametrize("said", HUGGINGFACE)
def test_as_hugging_face(photos: list[Path], said: dict[str, Any]) -> None:
    ours = read_huggingface(said, (32, 32))
    assert ours is not None
    for backend, levels in (("Pil", 0), ("", 2)):  # torch's resizing of bytes differs from Pillow's by up to 2 levels
        kind: Any = getattr(transformers, said["image_processor_type"] + backend)
        processor = kind(**{**said, "do_rescale": False, "do_normalize": False})

        def theirs(image: Image.Image, processor: Any = processor) -> Any:
            return processor(image, return_tensors="np")["pixel_values"][0]

        assert differ(photos, ours, theirs, (32, 32)) <= levels
    again = read_huggingface(write_huggingface(ours, (32, 32)), (32, 32))
    assert again == ours


@pytest.mark.parametrize("kind", ["ViT", "DeiT", "Bit", "CLIP"])
@pytest.mark.parametrize("said", [{}, {"size": 256}, {"resample": 0}])
def test_what_hugging_face_does_where_a_file_is_silent(photos: list[Path], kind: str, said: dict[str, Any]) -> None:
    said = {**said, "image_processor_type": f"{kind}ImageProcessor"}
    ours = read_huggingface(said, (224, 224))
    assert ours is not None
    processor: Any = getattr(transformers, f"{kind}ImageProcessorPil")(**said, do_rescale=False, do_normalize=False)
    if processor.size.height == 256 and not processor.crop_size:
        return  # images of another size than the model's

    def theirs(image: Image.Image) -> Any:
        return processor(image, return_tensors="np")["pixel_values"][0]

    assert differ(photos[:4], ours, theirs, (224, 224)) == 0


@pytest.mark.parametrize("said", [{}, {"size": {"longest_edge": 32}}, {"size": 32, "do_pad": True}, {"size": "big"}])
def test_what_hugging_face_does_otherwise_is_not_guessed(said: dict[str, Any]) -> None:
    assert read_huggingface(said, (32, 32)) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("stretch", Resizing()),
        ("crop", Resizing(fit="shortest")),
        ("36", Resizing(fit="shortest", size=(36, 36))),
        ("0.875", Resizing(fit="shortest", size=(36, 36))),
        ("pad", Resizing(fit="longest", fill=(76, 128, 178))),
    ],
)
def test_options_say_it(text: str, found: Resizing) -> None:
    assert parse_resizing(text, (32, 32), "bilinear", MEAN) == found


@pytest.mark.parametrize("text", ["", "31", "1.5", "nan", "-1", "0", "99999", "1e-9", "half"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--resize .* is not known; give stretch, crop, pad"):
        parse_resizing(text, (32, 32), "bilinear", MEAN)


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of timm with its config.json, as on the hub: border of its own colour, bicubic."""
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=2,
        pretrained_cfg_overlay={"crop_pct": 0.9, "crop_mode": "border", "interpolation": "bicubic", "mean": MEAN},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("timm") / "model"
    save_for_hf(model, str(folder), safe_serialization=True)
    return folder


def test_a_checkpoint_brings_its_own_into_every_verb(timm_folder: Path, photos: list[Path], tmp_path: Path) -> None:
    cfg = timm.data.resolve_data_config(json.loads((timm_folder / "config.json").read_text())["pretrained_cfg"])
    transform: Any = timm.data.create_transform(**{**cfg, "input_size": (3, 32, 32)})
    wanted = torch.stack([transform(Image.open(path)) for path in photos])
    for index, path in enumerate(photos):
        for split in ("train", "test"):
            place = tmp_path / "photos" / split / "ab"[index % 2]
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    content = checkpoint.load(timm_folder)
    data = sources.load(str(tmp_path / "photos"), (32, 32), 3, resizing=content.resizing)
    order = [photos.index(path) for part in (0, 1) for path in sorted(photos[part::2])]  # class by class
    batch, _ = next(data.with_normalization(content.mean, content.std).batches(data.test, 10, torch.device("cpu")))
    assert torch.equal(batch, wanted[order])
    with open_model(timm_folder, Hints()) as (_, feed):
        assert torch.allclose(torch.from_numpy(feed.batch(photos)), wanted, atol=1e-6)
    quiet = Console(file=io.StringIO())
    export(timm_folder, "onnx", str(tmp_path / "photos"), tmp_path / "m.onnx", None, Hints(), quiet)
    feed = read_feed(tmp_path / "m.onnx")
    assert torch.allclose(torch.from_numpy(feed.batch(photos)), wanted, atol=1e-6)
    checkpoint.save(tmp_path / "ours.pth", content)
    assert checkpoint.load(tmp_path / "ours.pth").resizing == content.resizing
    said = checkpoint.load(timm_folder, Hints(resize="36", interpolation="nearest")).resizing
    assert said == Resizing(fit="shortest", size=(36, 36), interpolation="nearest")
    assert Resizing().describe((32, 32)) not in data.notes[0]
    assert "longer edge to 35 (bicubic), padded, center crop of 32 x 32" in data.notes[0]


def test_an_image_that_would_grow_without_bound_is_refused(tmp_path: Path) -> None:
    Image.new("L", (60_000, 1)).save(tmp_path / "line.png")
    with pytest.raises(InputError, match="60000 x 1 pixels would become"):
        decode(tmp_path / "line.png", (224, 224), 3, Resizing(fit="shortest"))
