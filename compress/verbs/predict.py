"""Image files -> the classes that a model says they are, in the engine and from the file that are deployed.

Legend: B images of a batch, C channels.
"""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveFloat, ValidationError, model_validator
from rich.console import Console
from rich.table import Table
from rich.text import Text

from baselines import device as devices
from baselines.errors import InputError
from baselines.images import decode
from baselines.resizing import STRETCHED, Resizing
from compress import files, loading, runtimes
from compress.checkpoints import checkpoint
from compress.evaluate.measurement import run_batches
from compress.importers import Hints
from compress.importers.normalization import DATA
from compress.outcome import Outcome
from compress.runtimes import Runtime
from compress.runtimes.client import OutOfMemory, Worker, WorkerError
from compress.runtimes.graph_files import fixed_batch, read_graph_file
from reports.text import clean

BATCH = 16
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
    resizing: Resizing | None = None  # of images of other sizes

    @model_validator(mode="after")
    def _fits(self) -> "Feed":
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError(f"mean {self.mean} and std {self.std} are not those of 1 or 3 channels; export it anew")
        return self

    def batch(self, paths: Sequence[Path]) -> np.ndarray:
        """Normalized images (B, C, height, width) of files, as in training; raises InputError where one is none."""
        how = self.resizing or STRETCHED
        images = torch.stack([decode(path, self.image_size, len(self.mean), how) for path in paths])
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return ((images.float() / 255 - mean) / std).numpy()


def predict(request: Request, console: Console) -> Outcome:
    """Prints the likeliest classes of each image; the outcome holds their probabilities.

    Raises:
        InputError: an image or the model cannot be read or run, or the file does not say what is needed.
    """
    for path in request.images:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is not there"
            raise InputError(f"{path} {what}; give image files, such as {path if path.is_dir() else 'photos'}/*.jpg")
    runtime = choose_runtime(request.model, request.runtime)
    device = choose_device(runtime, request.device)
    with open_model(request.model, request.hints, console.print) as (artifact, feed):
        answers, name = run(request, runtime, device, artifact, feed)
    table = Table("image", "class", box=None, pad_edge=False)
    table.add_column("probability", justify="right")
    predictions = []
    for path, values in zip(request.images, answers, strict=True):
        likeliest = [int(index) for index in np.argsort(-values, kind="stable")[: request.top]]
        for index in likeliest:
            table.add_row(Text(clean(path)), Text(clean(feed.classes[index])), f"{values[index]:.2%}")
        named = [{"class": feed.classes[index], "probability": float(values[index])} for index in likeliest]
        predictions.append({"image": str(path), "classes": named})
    console.print(table)
    many = f"{len(request.images)} image{'s' if len(request.images) > 1 else ''}"
    console.print(f"{many}, {runtime.name} on {device}: {name}")
    return Outcome(facts={"predictions": predictions, "runtime": runtime.name, "device": device, "device_name": name})


def choose_runtime(path: Path, asked: str) -> Runtime:
    """The engine for a file; raises InputError where the one asked for is unknown, not here, or opens no such files."""
    fits = runtimes.find_openers(path)
    name = find_chosen_runtime(path, fits) if asked == "auto" else asked
    if name in runtimes.REGISTRY and name not in fits:
        kind = "openvino" if ".xml" in runtimes.describe(name).opens else "onnx"
        made = f"or make its file: compress export {path} --to {kind}"
        remedy = made if runtimes.is_checkpoint(path) else "choose one of them"
        raise InputError(f"--runtime {name} does not open {path}, as {' and '.join(fits)} do; {remedy}")
    return runtimes.get(name)


def find_chosen_runtime(path: Path, fits: Sequence[str]) -> str:
    """The engine that a file was kept for, where it says so and the engine is here; else the first that opens it."""
    if runtimes.is_checkpoint(path) or not path.is_file():
        return fits[0]
    said = read_graph_file(path).metadata.get("runtime", "").strip('"')
    usable = said in fits and not runtimes.describe(said).missing_packages()
    return said if usable else fits[0]


def choose_device(runtime: Runtime, asked: str) -> str:
    """`cpu` or `cuda`; raises InputError where the engine cannot use it here."""
    device, usable = devices.resolve(asked).type, runtime.devices()
    if device not in usable and asked == "auto":
        device = "cpu"
    if device not in usable:
        raise InputError(f"--runtime {runtime.name} cannot use --device {device} here; compress doctor says why")
    return device


@contextlib.contextmanager
def open_model(path: Path, hints: Hints, say: Callable[[str], object] = lambda _: None) -> Iterator[tuple[Path, Feed]]:
    """A file that a worker can load, and how to feed it. Checkpoints of other libraries are put into our form first.

    Args:
        say: takes a line on which of several models is in it, or that its weights are random.
    """
    if not runtimes.is_checkpoint(path):
        if hints != Hints():
            raise InputError(
                f"{path} says itself what --heads, --image-size, --normalize, --resize, --interpolation, --weights, "
                "--ema and --model are for; leave them out"
            )
        yield path, read_feed(path)
        return
    content = loading.restore(path, hints)[2]
    if content.choice:
        say(f"{path}: {content.choice}")
    if not content.mean or hints.normalize == DATA:
        raise InputError(
            f"{path} does not say how its images are normalized; say it with --normalize: imagenet, half, clip, none, "
            "or numbers"
        )
    classes = content.classes or tuple(map(str, range(content.config.classes)))
    size = content.config.image_size
    try:
        how = content.resizing
        feed = Feed(classes=classes, mean=content.mean, std=content.std, image_size=size, resizing=how)
    except ValidationError as error:
        raise files.explain(error, str(path)) from error
    if content.origin is None:
        yield path, feed
        return
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder) / "model.pth"
        checkpoint.save(ours, content)
        yield ours, feed


def read_feed(path: Path) -> Feed:
    """What an engine's file says; raises InputError where metadata of ours are missing or impossible."""
    metadata = read_graph_file(path).metadata
    missing = [name for name, field in Feed.model_fields.items() if field.is_required() and name not in metadata]
    if missing:
        raise InputError(
            f"{path} was not exported by compress: it lacks {', '.join(missing)}; give the checkpoint it was "
            "made of, or a file of compress export"
        )
    try:
        return Feed(**{name: json.loads(metadata[name]) for name in Feed.model_fields if name in metadata})
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
        batch = fixed_batch(artifact)
        with Worker.start(runtime.name, artifact, device, request.threads, batch) as worker:
            for start in range(0, len(request.images), BATCH):
                paths = request.images[start : start + BATCH]
                logits = run_batches(worker, feed.batch(paths), batch or len(paths))
                answers += probabilities(request.model, logits, len(paths), feed)
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
