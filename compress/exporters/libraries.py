"""A model of ours -> a file, or a folder, that another library loads; read back and run before it appears."""

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from baselines.errors import InputError
from baselines.vit import Encoder, VisionTransformer
from compress import files, importers
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import Checkpoint
from compress.checkpoints.serialization import serialize_safetensors, serialize_torch
from compress.exporters.onnx import ParityError
from compress.importers import LAYOUTS, Hints, ImportedModel, Layout
from compress.importers.base import ExportedModel
from compress.importers.timm_registry import place_files
from compress.loading import cast_to_float32
from compress.variant import Variant

FILES = (".safetensors", ".pth")  # as which weights without settings are written
IMAGES = 4  # of noise, with which a written model is compared
TOLERANCE = 1e-5  # of the largest logit
UNSAID = ("norm_eps", "activation")  # settings that weights alone do not say; the Python that is printed does
FLOAT = ("fp32", "bf16")
MODULES = re.compile(r"\b(functools|safetensors\.torch|timm|torch|torchvision|transformers)\.")  # that usage names


@dataclass(frozen=True)
class LibraryFile:
    """What was written."""

    path: Path
    file_bytes: int
    usage: str  # Python that loads it
    difference: float  # of logits from those of the model that was read back, relative to the largest


def list_families() -> dict[str, Layout]:
    """The libraries that models can return to, by name."""
    return {family.name: family for family in LAYOUTS if family.write is not None}


def write_for_library(
    path: Path,
    model: VisionTransformer,
    which: Variant,
    content: Checkpoint,
    name: str,
    out: Path | None,
    keep: Callable[[Mapping[Path, bytes], Path], object],
) -> LibraryFile:
    """Writes a model as the library of that name takes it.

    Args:
        path: where the model comes from.
        out: a file or folder; beside `path` by default.
        keep: writes files, of which the second argument is the only one, or the folder.

    Raises:
        InputError: the library's model cannot be this one, or the place cannot be written.
        ParityError: what was written is not read back as the same model.
    """
    check_plain(path, model, which, name)
    foreign = ImportedModel(
        content.geometry,
        cast_to_float32(content.state),
        content.classes,
        content.mean,
        content.std,
        content.resizing,
    )
    write = list_families()[name].write
    assert write is not None
    try:
        outgoing = write(foreign)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if outgoing.settings:
        target = choose_target(path, name, out, f".{name}")
    else:
        target = choose_target(path, name, out, f".{name}.safetensors", FILES)
    parts = serialise(outgoing, target, foreign)
    with tempfile.TemporaryDirectory() as folder:
        copies = {Path(folder) / inner: part for inner, part in parts.items()}
        files.write_together(copies)
        difference = verify_file(Path(folder) if outgoing.settings else next(iter(copies)), foreign)
    root = target if outgoing.settings else target.parent
    whole = {root / inner: part.encode() if isinstance(part, str) else part for inner, part in parts.items()}
    keep(whole, target)
    return LibraryFile(target, sum(map(len, parts.values())), format_usage(outgoing, target, foreign), difference)


def check_plain(path: Path, model: VisionTransformer, which: Variant, name: str) -> None:
    """Raises InputError where a method has made of the model what no library has."""
    if which.dtype not in FLOAT:
        raise InputError(
            f"{path} is {which.name!r}: weights in {which.dtype} are no weights of a model of {name}; give the float "
            "checkpoint it was made of, or write it with --to safetensors, onnx or openvino"
        )
    with torch.device("meta"):
        plain = VisionTransformer(model.config).state_dict()
    if type(model.encoder) is not Encoder or model.state_dict().keys() != plain.keys():
        raise InputError(
            f"{path} is {which.name!r}: a model of {name} computes all tokens in every block, and cannot choose; "
            "write it with --to safetensors, onnx or openvino"
        )


def choose_target(path: Path, name: str, out: Path | None, ending: str, suffixes: Sequence[str] = ()) -> Path:
    """Where a checkpoint goes to.

    Args:
        name: as --to takes it.
        out: as the person wants it; by default beside the checkpoint, with `ending` for its suffix.
        suffixes: that its name may have; none where it is a folder.

    Raises:
        InputError: it has another, or is the checkpoint itself.
    """
    whole = path.resolve() if path.name in ("", "..") else place_files(path)
    target = out or whole.with_name((whole.name if whole.is_dir() else whole.stem) + ending)
    if suffixes and target.suffix not in suffixes:
        raise InputError(f"--out {target} must end in {' or '.join(suffixes)}, which is what --to {name} writes")
    if not suffixes and target.suffix in FILES:
        raise InputError(f"--to {name} writes a folder, settings beside weights; give --out without {target.suffix}")
    if target.resolve() == path.resolve():
        raise InputError(f"{path} would be replaced by what is made of it; give another --out")
    return target


def write_safetensors(path: Path, content: Checkpoint) -> None:
    """Writes a checkpoint of ours as safetensors, whatever was done to it.

    Raises:
        ParityError: other weights are read back.
        InputError: the place cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        checkpoint.save(copy, content)
        was, read = (dict(sorted(each.state.items())) for each in (content, checkpoint.load(copy)))
        if checkpoint.hash_state(was) != checkpoint.hash_state(read):
            raise ParityError("the weights that are read back are others; not written")
        files.write(path, copy.read_bytes())


def serialise(outgoing: ExportedModel, target: Path, foreign: ImportedModel) -> dict[str, bytes | str]:
    """The files, by their names inside the folder they go to; the weights first."""
    facts = {"classes": foreign.classes, "mean": foreign.mean, "std": foreign.std}
    metadata = {"format": "pt", **{name: json.dumps(value) for name, value in facts.items() if value}}
    if outgoing.settings:
        weights = {"model.safetensors": serialize_safetensors(outgoing.tensors, metadata)}
        settings = {"config.json": outgoing.settings, "preprocessor_config.json": outgoing.preprocessing}
        return weights | {name: json.dumps(each, indent=2) + "\n" for name, each in settings.items() if each}
    if target.suffix == ".safetensors":
        return {target.name: serialize_safetensors(outgoing.tensors, metadata)}
    return {target.name: serialize_torch({name: value.clone() for name, value in outgoing.tensors.items()})}


def format_usage(outgoing: ExportedModel, target: Path, foreign: ImportedModel) -> str:
    """Python that makes the library's model with the weights that were written, and what it wants to be fed with."""
    lines = [f"model = {outgoing.usage}"]
    if not outgoing.settings:
        load = "safetensors.torch.load_file(PATH)" if target.suffix == FILES[0] else "torch.load(PATH)"
        lines.append(f"model.load_state_dict({load})")
    named = sorted({name for line in lines for name in MODULES.findall(line)})
    size = " x ".join(map(str, foreign.config.image_size))
    how = f" ({foreign.resizing.describe(foreign.config.image_size)})" if foreign.resizing else ""
    means = ", ".join(f"{value:.4g}" for value in foreign.mean) or "unknown"
    deviations = ", ".join(f"{value:.4g}" for value in foreign.std) or "unknown"
    lines.append(f"model.eval()  # images of {size}{how}, pixels in [0, 1]: mean {means}, deviation {deviations}")
    return "\n".join([f"import {', '.join(named)}", *lines]).replace("PATH", repr(str(target)))


def verify_file(path: Path, ours: ImportedModel) -> float:
    """How far logits of what was written are from those of the model it was made of, relative to the largest.

    Raises:
        ParityError: they differ, or it is another model.
    """
    try:
        known = Hints(heads=ours.config.heads, image_size=ours.config.image_size)
        theirs = importers.convert(importers.read_checkpoint(path), known)
        if path.is_file():
            unsaid = {name: getattr(ours.config, name) for name in UNSAID}
            theirs = replace(theirs, config=theirs.config.model_copy(update=unsaid))
    except InputError as error:
        raise ParityError(f"what was made of the model cannot be read back ({error}); not written") from error
    shape = (IMAGES, ours.config.channels, *ours.config.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected, got = (compute_logits(each, images) for each in (ours, theirs))
    if expected.shape != got.shape:
        raise ParityError(f"what was made of the model gives {got.shape[1]} classes; not written")
    difference = ((got - expected).abs().max() / expected.abs().max().clamp(min=torch.finfo().tiny)).item()
    if not difference <= TOLERANCE:
        raise ParityError(f"what was made of the model gives other logits (by {difference:.1e}); not written")
    return difference


@torch.inference_mode()
def compute_logits(foreign: ImportedModel, images: Tensor) -> Tensor:
    """Logits (B, classes) of a plain model in float32, of images (B, C, height, width)."""
    with torch.device("meta"):
        model = VisionTransformer(foreign.config)
    weights: Mapping[str, Tensor] = foreign.state
    model.load_state_dict(weights, assign=True)
    return model.eval()(images)
