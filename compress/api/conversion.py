"""What makes another file of a model, and what runs one: `distill`, `export`, `load` and `predict` for Python."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from baselines import device as devices
from baselines.vit import VisionTransformer, ViTConfig
from compress import config, loading
from compress.api.results import Artifact, Result
from compress.api.work import begin_work
from compress.checkpoints import checkpoint
from compress.config import BenchConfig
from compress.importers.timm_registry import place_files
from compress.training.build import STUDENT, train_student
from compress.training.data import adapt_to_data
from compress.training.run import open_run
from compress.training.teacher import adopt
from compress.variant import make_method
from compress.verbs import export as export_


def distill(
    teacher: Any,
    student: VisionTransformer | ViTConfig | str | Path,
    data: Any,
    *,
    test: Any = None,
    out: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    verbose: bool = True,
    device: str = "auto",
    seed: int = 0,
    kind: str = "soft",
    temperature: float | None = None,
    **training: Any,
) -> Result:
    """A student, trained from nothing, that learns from a larger model too.

    Args:
        teacher: module or checkpoint.
        student: geometry of the student: ours, or a TOML file as `--student` takes it. Weights are not taken over.
        kind: soft: the teacher's probabilities; hard: the class it chooses.
        temperature: of soft answers.
        training: fields of `baselines.train.TrainConfig`, such as epochs, lr, batch_size.

    Other arguments are those of `quantize`.

    Returns:
        No rows; `path` is the checkpoint of the student.

    Raises:
        InputError: teacher, student, images or settings cannot be used.
    """
    work = begin_work(teacher, data, test, out, image_size, verbose=verbose)
    told = {name: value for name, value in {"kind": kind, "temperature": temperature}.items() if value is not None}
    settings = _read_student(student, work.data.name if work.data else str(data), seed, training)
    chosen, say = devices.resolve(device), work.console.print
    file = adopt(work.source.path, work.source.hints, settings, work.folder, say, work.data)
    method = make_method("distill", {**settings.methods.get("distill", {}), **told, "teacher": str(file)})
    settings = settings.model_copy(update={"methods": {**settings.methods, "distill": method.model_dump()}})
    run = open_run(settings, work.folder, chosen, say, images=work.data)
    train_student(run, method)
    return Result([], work.folder, work.folder / f"best_{STUDENT}_model.pth", "torch", work.holds)


def export(
    model: Any,
    data: Any = None,
    *,
    to: str = "onnx",
    out: str | Path,
    image_size: int | tuple[int, int] | None = None,
    batch_size: int | None = None,
    verbose: bool = True,
) -> Path:
    """Writes a file for an engine or a library, checked against the model.

    Args:
        data: images of the check and of the normalization, where an engine's file is asked for.
        to: onnx, openvino, safetensors, or a library, as `compress export --to` takes it.
        out: the file, or its folder.
        batch_size: of all batches that an engine's file takes; None: any.

    Raises:
        InputError: model, images or options cannot be used.
        ParityError: what was written would not compute what the model does.
    """
    work = begin_work(model, data, None, None, image_size, verbose=verbose)
    source = work.source
    if work.data is not None:  # which says what the module does not
        restored, _, content = loading.restore(source.path, source.hints)
        content, _ = adapt_to_data(source.path, restored, content, work.data, source.hints, work.console.print)
        checkpoint.save(path := work.folder / f"known_{place_files(source.path).stem}.pth", content)
        source = replace(source, path=path)
    outcome = export_.export(source.path, to, work.data, Path(out), batch_size, source.hints, work.console, force=True)
    return (outcome.written or [Path(out)])[0]


def load(path: str | Path, runtime: str = "auto", device: str = "auto", threads: int | None = None) -> Artifact:
    """A checkpoint, ONNX or OpenVINO file, ready to be called in the engine that it was made for.

    Raises:
        InputError: the file cannot be read, or not by that engine.
    """
    return Artifact(Path(path), runtime, device, threads)


def predict(model: str | Path | Artifact, images: Any, top: int = 1) -> list[list[tuple[str, float]]]:
    """The likeliest classes of each image, with their probabilities.

    Args:
        images: paths of image files, or normalized images (n, channels, height, width).
    """
    artifact = model if isinstance(model, Artifact) else load(model)
    named = isinstance(images, list | tuple) and all(isinstance(each, str | Path) for each in images)
    logits = artifact(artifact.read(images) if named else images)
    shares = torch.from_numpy(logits).double().softmax(1)
    values, indices = shares.topk(min(top, shares.shape[1]))
    return [
        [(artifact.classes[index], value) for value, index in zip(*pair, strict=True)]
        for pair in zip(values.tolist(), indices.tolist(), strict=True)
    ]


def _read_student(student: Any, data: str, seed: int, training: dict[str, Any]) -> BenchConfig:
    if isinstance(student, str | Path):
        settings = config.read(Path(student), data, seed)
    else:
        geometry = student.config if isinstance(student, VisionTransformer) else student
        settings = config.resolve(
            {"data": data, "seed": seed, "model": geometry.model_dump(exclude={"classes"})}, "student"
        )
    given = config.merge(settings.train.model_dump(), training)
    return config.resolve({**settings.model_dump(exclude_unset=True), "train": given}, "training settings")
