"""Image files -> the classes that a model says they are, in the engine and from the file that are deployed.

Legend: B images of a batch, C channels.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from xml.etree import ElementTree

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveFloat, ValidationError, model_validator
from rich.console import Console
from rich.table import Table
from rich.text import Text

from baselines import device as devices
from baselines.data import decode
from baselines.errors import InputError
from compress import files, loading, runtimes
from compress.checkpoints import checkpoint
from compress.checkpoints.onnx_files import check_onnx, check_xml
from compress.importers import Hints
from compress.importers.normalising import DATA
from compress.runtimes import Runtime
from compress.runtimes.workers import OutOfMemory, Worker, WorkerError
from reports.text import clean

BATCH = 16
FILES = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino", "nncf")}  # and the runtimes that open them
CHECKPOINTS = ("torch", "torch.compile")
LARGEST = 8192  # pixels of a side that metadata may ask for
Side = Annotated[int, Field(gt=0, le=LARGEST)]


@dataclass(frozen=True)
class Request:
    model: Path
    images: Sequence[Path]
    top: int
    runtime: str
    device: str
    threads: int
    hints: Hints


class Feed(BaseModel):
    """What a model takes, and what its answers are called; as the metadata of its file say it."""

    model_config = ConfigDict(frozen=True)

    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    mean: tuple[FiniteFloat, ...]  # per channel, of pixels in [0, 1]
    std: tuple[PositiveFloat, ...]
    image_size: tuple[Side, Side]  # height, width

    @model_validator(mode="after")
    def _fits(self) -> "Feed":
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError(f"mean {self.mean} and std {self.std} are not those of 1 or 3 channels; export it anew")
        return self

    def batch(self, paths: Sequence[Path]) -> np.ndarray:
        """Normalised images (B, C, height, width) of files, as in training; raises InputError where one is none."""
        images = torch.stack([decode(path, self.image_size, len(self.mean)) for path in paths])
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return ((images.float() / 255 - mean) / std).numpy()


def predict(request: Request, console: Console) -> None:
    """Prints the likeliest classes of each image.

    Raises:
        InputError: an image or the model cannot be read or run, or the file does not say what is needed.
    """
    for path in request.images:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is not there"
            raise InputError(f"{path} {what}; give image files, such as {path if path.is_dir() else 'photos'}/*.jpg")
    runtime = runtime_of(request.model, request.runtime)
    device = device_of(runtime, request.device)
    with opened(request.model, request.hints) as (artifact, feed):
        answers, name = run(request, runtime, device, artifact, feed)
    table = Table("image", "class", box=None, pad_edge=False)
    table.add_column("probability", justify="right")
    for path, values in zip(request.images, answers, strict=True):
        for index in np.argsort(-values, kind="stable")[: request.top]:
            table.add_row(Text(clean(path)), Text(clean(feed.classes[index])), f"{values[index]:.2%}")
    console.print(table)
    many = f"{len(request.images)} image{'s' if len(request.images) > 1 else ''}"
    console.print(f"{many}, {runtime.name} on {device}: {name}")


def runtime_of(path: Path, asked: str) -> Runtime:
    """The engine for a file; raises InputError where the one asked for is unknown, not here, or opens no such files."""
    fits = FILES.get(path.suffix, CHECKPOINTS)
    name = fits[0] if asked == "auto" else asked
    if name in runtimes.RUNTIMES and name not in fits:
        kind = "openvino" if name in FILES[".xml"] else "onnx"
        remedy = (
            f"or make its file: compress export {path} --to {kind}" if fits == CHECKPOINTS else "choose one of them"
        )
        raise InputError(f"--runtime {name} does not open {path}, as {' and '.join(fits)} do; {remedy}")
    return runtimes.get(name)


def device_of(runtime: Runtime, asked: str) -> str:
    """`cpu` or `cuda`; raises InputError where the engine cannot use it here."""
    device, usable = devices.resolve(asked).type, runtime.devices()
    if device not in usable and asked == "auto":
        device = "cpu"
    if device not in usable:
        raise InputError(f"--runtime {runtime.name} cannot use --device {device} here; compress doctor says why")
    return device


@contextlib.contextmanager
def opened(path: Path, hints: Hints) -> Iterator[tuple[Path, Feed]]:
    """A file that a worker can load, and how to feed it. Checkpoints of other libraries are put into our form first."""
    if path.suffix in FILES:
        if hints != Hints():
            raise InputError(
                f"{path} says itself what --heads, --image-size, --normalise, --ema and --model are for; leave them out"
            )
        yield path, feed_of(path, (onnx_metadata if path.suffix == ".onnx" else xml_metadata)(path))
        return
    content = loading.restore(path, hints)[2]
    if not content.mean or hints.normalise == DATA:
        raise InputError(
            f"{path} does not say how its images are normalised; say it with --normalise: imagenet, half, clip, none, "
            "or numbers"
        )
    classes = content.classes or tuple(map(str, range(content.config.classes)))
    size = content.config.image_size
    try:
        feed = Feed(classes=classes, mean=content.mean, std=content.std, image_size=size)
    except ValidationError as error:
        raise files.explain(error, str(path)) from error
    if content.origin is None:
        yield path, feed
        return
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder) / "model.pth"
        checkpoint.save(ours, content)
        yield ours, feed


def onnx_metadata(path: Path) -> dict[str, str]:
    """Metadata of an ONNX file; raises InputError where it is none, or not safe to open."""
    import onnx
    from google.protobuf.message import DecodeError

    check_onnx(path)
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise InputError(f"{path} is no ONNX file, or is damaged ({clean(error)}); export it anew") from error
    return {entry.key: entry.value for entry in proto.metadata_props}


def xml_metadata(path: Path) -> dict[str, str]:
    """What compress wrote into an OpenVINO file; raises InputError where it is none, or not safe to open."""
    check_xml(path)
    tree = ElementTree.parse(path, ElementTree.XMLParser(encoding="utf-8"))  # as it was checked
    found = tree.getroot().find("rt_info/compress")
    return {} if found is None else {entry.tag: entry.attrib.get("value", "") for entry in found}


def feed_of(path: Path, metadata: Mapping[str, str]) -> Feed:
    """Raises InputError where metadata of ours are missing or impossible."""
    missing = [name for name in Feed.model_fields if name not in metadata]
    if missing:
        raise InputError(
            f"{path} was not exported by compress: it lacks {', '.join(missing)}; give the checkpoint it was "
            "made of, or a file of compress export"
        )
    try:
        return Feed(**{name: json.loads(metadata[name]) for name in Feed.model_fields})
    except ValidationError as error:
        raise files.explain(error, f"{path} (metadata)") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} has metadata that are no JSON; export it anew") from error


def run(
    request: Request, runtime: Runtime, device: str, artifact: Path, feed: Feed
) -> tuple[list[np.ndarray], str]:  # fmt: skip
    """Probabilities of all classes for each image, and the name of the device, from a process of its own."""
    answers: list[np.ndarray] = []
    try:
        with Worker.of(runtime.name, artifact, device, request.threads) as worker:
            for start in range(0, len(request.images), BATCH):
                paths = request.images[start : start + BATCH]
                answers += probabilities(request.model, worker.logits(feed.batch(paths)), len(paths), feed)
            return answers, worker.ready()["device_name"]
    except OutOfMemory as error:
        raise InputError(f"{request.model} does not fit into memory ({error}); close other programs") from error
    except WorkerError as error:
        raise InputError(f"{request.model} cannot be run in {runtime.name} ({clean(error)}); make it anew") from error


def probabilities(path: Path, logits: np.ndarray, count: int, feed: Feed) -> list[np.ndarray]:
    """Of each image, its classes' (C,); raises InputError where the model does not answer as its metadata say."""
    if logits.shape != (count, len(feed.classes)):
        raise InputError(
            f"{path} names {len(feed.classes)} classes, but gives {' x '.join(map(str, logits.shape))} numbers for "
            f"{count} images; export it anew"
        )
    if not np.isfinite(logits).all():
        raise InputError(f"{path} gives numbers that are not finite; it is damaged: make it anew")
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return list(powers / powers.sum(1, keepdims=True))
