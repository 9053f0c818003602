"""Top-1 of wide photos through the library a checkpoint comes from, and through compress: image for image.

    python benchmarks/checkpoints.py [--only PATTERN]

A small ViT of timm learns scikit-learn's digits; its weights are then written in the layout of each library, beside the
preprocessing that this library keeps. A DeiT and a ViT of vit-pytorch, which have other weights, learn too. The photos
are 96 x 36 pixels with the digit in the middle, on noise. The library reads and resizes them by its own transforms and
runs its own model; `compress predict` and `compress bench` do theirs.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm.data
import torch
import torchvision
import transformers
import vit_pytorch
from layouts import SIDE, SIZES, as_google, as_jeonsworld
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from timm.models._hub import save_for_hf
from torch import nn

EPOCHS, BATCH = 14, 64
CROP_OPTIONS = ["--resize", "36", "--interpolation", "bicubic"]
OPTIONS = [*CROP_OPTIONS, "--normalize", "half", "--heads", "3"]
HALF = [0.5] * 3
BIT = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 36}, "resample": 3}
CROP = {"do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}}
PROCESSORS: dict[str, dict[str, Any]] = {
    "Hugging Face: shorter edge 36, crop 32, bicubic": {**BIT, **CROP},
    "Hugging Face: 36 x 36, crop 32, bicubic": {
        "image_processor_type": "DeiTImageProcessor", "size": {"height": 36, "width": 36}, "resample": 3, **CROP,
    },
    "Hugging Face: 32 x 32, bilinear": {
        "image_processor_type": "ViTImageProcessor", "size": {"height": SIDE, "width": SIDE}, "resample": 2,
    },
}  # fmt: skip

Reader = Callable[[Path], torch.Tensor]  # an image file -> the logits of the library (classes,)
Case = tuple[str, Path, list[str], Reader]


def write_photos(folder: Path) -> list[tuple[Path, int]]:
    """Class folders of photos; the test images with their labels."""
    raw: Any = load_digits()
    noise, tests = np.random.default_rng(0), []
    for index, (digit, label) in enumerate(zip(raw.images, raw.target, strict=True)):
        photo = noise.integers(0, 256, (36, 96, 3), dtype=np.uint8)
        small = Image.fromarray((digit * (255 / 16)).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        photo[2:34, 32:64] = np.asarray(small)[..., None]
        path = folder / ("test" if index % 5 == 0 else "train") / str(label) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(path)
        tests += [(path, int(label))] if index % 5 == 0 else []
    return tests


@torch.inference_mode(False)
def train(photos: Path, make: Callable[[], nn.Module]) -> nn.Module:
    """A model on the middles of the training photos."""
    torch.manual_seed(0)
    model = make()
    data = torchvision.datasets.ImageFolder(str(photos / "train"), make_transform())
    images, labels = (torch.stack([image for image, _ in data]), torch.tensor(data.targets))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    steps = EPOCHS * -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def make_transform() -> Any:
    return timm.data.create_transform(
        (3, SIDE, SIDE), crop_pct=SIDE / 36, interpolation="bicubic", mean=tuple(HALF), std=tuple(HALF)
    )


def list_cases(model: nn.Module, deit: nn.Module, folder: Path) -> Iterator[Case]:
    """What it is called, the checkpoint, options of compress, and the library's own answer."""
    said = {"crop_pct": SIDE / 36, "interpolation": "bicubic", "mean": HALF, "std": HALF, "input_size": (3, SIDE, SIDE)}
    for name, each in (("timm", model), ("DeiT, distilled, of timm", deit)):
        each.pretrained_cfg = {**each.pretrained_cfg, **said}  # pyright: ignore[reportAttributeAccessIssue]
        place = folder / name.split(",")[0]
        save_for_hf(each, str(place), safe_serialization=True)
        yield f"{name}: crop_pct 0.889, bicubic", place, [], reading(each)
    torch.save(model.state_dict(), folder / "timm.pth")
    yield f"timm, weights alone: `{' '.join(OPTIONS)}`", folder / "timm.pth", OPTIONS, reading(model)
    for name, how in PROCESSORS.items():
        place = folder / f"hf{len(list(folder.iterdir()))}"
        compress("export", folder / "timm", "--to", "huggingface", "--out", place)
        whole = {**how, "do_rescale": True, "do_normalize": True, "image_mean": HALF, "image_std": HALF}
        (place / "preprocessor_config.json").write_text(json.dumps(whole))
        processor: Any = transformers.AutoImageProcessor.from_pretrained(place, backend="pil")
        theirs: Any = transformers.AutoModelForImageClassification.from_pretrained(place).eval()

        def read(path: Path, processor: Any = processor, theirs: Any = theirs) -> torch.Tensor:
            return theirs(**processor(open_photo(path), return_tensors="pt")).logits[0]

        yield name, place, [], read
    compress("export", folder / "timm", "--to", "torchvision", "--out", folder / "torchvision.pth")
    other = torchvision.models.VisionTransformer(SIDE, 8, 4, 3, 96, 384, num_classes=10).eval()
    other.load_state_dict(torch.load(folder / "torchvision.pth"))
    preset: Any = torchvision.transforms._presets.ImageClassification(  # of its published weights
        crop_size=SIDE, resize_size=36, mean=tuple(HALF), std=tuple(HALF)
    )
    yield (
        "torchvision's preset: `--resize 36 --normalize half --heads 3`",
        folder / "torchvision.pth",
        ["--resize", "36", "--normalize", "half", "--heads", "3"],
        lambda path: other(preset(open_photo(path))[None])[0],
    )


def list_other_cases(model: nn.Module, lucidrains: nn.Module, folder: Path) -> Iterator[Case]:
    """As `list_cases`, in layouts that keep no preprocessing."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    np.savez(folder / "ViT.npz", **as_google(state))
    theirs: Any = timm.models.VisionTransformer(**SIZES, act_layer="gelu_tanh").eval()  # as the authors' model has it
    theirs.load_pretrained(folder / "ViT.npz")
    yield f"Google's npz: `{' '.join(CROP_OPTIONS)}`", folder / "ViT.npz", CROP_OPTIONS, reading(theirs)
    torch.save(lucidrains.state_dict(), folder / "lucidrains.pth")
    yield "vit-pytorch: the same options as timm's weights", folder / "lucidrains.pth", OPTIONS, reading(lucidrains)
    renamed = {name: torch.from_numpy(value.copy()) for name, value in as_jeonsworld(state).items()}
    torch.save(renamed, folder / "jeonsworld.pth")
    yield "ViT-pytorch: the same options", folder / "jeonsworld.pth", OPTIONS, reading(model)


def reading(model: nn.Module) -> Reader:
    """The answers of a model to photos that timm's transform reads."""
    transform = make_transform()
    return lambda path: model(transform(open_photo(path))[None])[0]


def open_photo(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def compress(*args: object) -> Any:
    """Runs a command; what it prints as JSON."""
    command = [sys.executable, "-m", "compress", *map(str, args)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stderr}{done.stdout}")
    return json.loads(done.stdout)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="PATTERN", help="checkpoints whose name it matches, as a pattern")
    only = parser.parse_args().only
    table = Table("checkpoint", title="wide photos of digits, 360 test images")
    for heading in ("top-1 of the library", "of compress bench", "same class"):
        table.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tests = write_photos(folder / "photos")
        model = train(folder / "photos", lambda: timm.create_model("vit_tiny_patch16_224", **SIZES))
        deit = train(folder / "photos", lambda: timm.create_model("deit_tiny_distilled_patch16_224", **SIZES))
        lucidrains = train(
            folder / "photos",
            lambda: vit_pytorch.ViT(
                image_size=SIDE, patch_size=8, num_classes=10, dim=96, depth=4, heads=3, mlp_dim=384
            ),
        )
        (folder / "files").mkdir()
        labels = [label for _, label in tests]
        files = folder / "files"
        cases = [*list_cases(model, deit, files), *list_other_cases(model, lucidrains, files)]
        for title, path, options, read in (case for case in cases if re.search(only, case[0])):
            theirs = [int(read(photo).argmax()) for photo, _ in tests]
            said = compress("predict", path, *(photo for photo, _ in tests), "--top", 1, *options)
            ours = [int(each["classes"][0]["class"]) for each in said["predictions"]]
            bench = ["--checkpoint", path, "--data", folder / "photos", "--variants", "vit", "--runtime", "torch"]
            bench += ["--no-plain", "--seconds", 0, "--batch-size", 1, "--out", folder / "out" / path.name]
            (row,) = compress("bench", *bench, *options)["rows"]
            right = sum(a == b for a, b in zip(theirs, labels, strict=True))
            same = sum(a == b for a, b in zip(theirs, ours, strict=True))
            table.add_row(title, f"{right / len(tests):.2%}", f"{row['top1']:.2%}", f"{same} of {len(tests)}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
