"""The one place where weights are read and written.

A checkpoint is a dictionary of tensors and plain values in torch's zip format, read with `weights_only=True`: a file
that would run code is refused. Or it is a safetensors file, whose metadata are the plain values, each as JSON. Those of
other libraries are read by `importers`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from baselines import macs
from baselines.classifier import ImageConfig
from baselines.errors import InputError
from baselines.resizing import STRETCHED, Resizing
from baselines.vit import ViTConfig
from compress import files, importers
from compress.checkpoints import user_models, validation
from compress.checkpoints.serialization import serialize_safetensors, serialize_torch
from compress.checkpoints.user_models import ModuleConfig
from compress.checkpoints.user_weights import match_weights
from compress.importers import Content, Hints, ImportedModel, list_normalizations, parse_resizing, timm_registry
from compress.importers.normalization import DATA

FORMAT = "compress-checkpoint-1"
REMEDY = "fetch it again, or remove it and train anew"


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with all that is needed to rebuild it and to feed it.

    What a file of another library does not say is empty: `dataset`, `classes`, `mean` and `std`; see `adapt_to_data`.
    """

    config: ImageConfig  # a ViTConfig, or a ModuleConfig
    methods: tuple[dict[str, Any], ...]  # in order, each {"name": ..., hyper-parameters}
    state: dict[str, Tensor]
    dataset: str = ""  # as --data takes it
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()  # per channel, of pixels in [0, 1]
    std: tuple[float, ...] = ()
    resizing: Resizing | None = None  # of images of other sizes; None where nobody says: stretched
    converted: bool = False  # whether the methods' `convert` has been applied: a model that ships
    pretrained: bool = False  # whether it has seen no labels: its head knows nothing
    calibration: dict[str, Any] | None = None  # `images`, `sha256` of those that set what is measured, not learned
    # Of a model of another library: `family`, `numbers`, `notes`, `parameters`; and, just read, its `choice`
    origin: dict[str, Any] | None = None

    @property
    def parameters(self) -> int:
        """Learned weights, as the library of the file counts them: zeros that stand in for what it lacks are none."""
        told = (self.origin or {}).get("parameters")
        return told if told and not self.methods else macs.params(self.geometry)

    @property
    def choice(self) -> str:
        """Which of several models in its file it is, in words; empty where there was one alone."""
        return (self.origin or {}).get("choice", "")

    @property
    def random(self) -> bool:
        """Whether nothing was learned: it stands for the speed of a model whose weights are elsewhere."""
        return (self.origin or {}).get("random", False)

    @property
    def geometry(self) -> ViTConfig:
        """Of a Vision Transformer; raises InputError for a model of the user's code."""
        if isinstance(self.config, ViTConfig):
            return self.config
        assert isinstance(self.config, ModuleConfig)
        raise InputError(
            f"{self.config.factory} is no Vision Transformer: int8, bf16, bench and export work on it, this does not"
        )


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Writes the file as a whole or not at all; as safetensors where its name ends so.

    Raises:
        InputError: the place cannot be written.
    """
    facts: dict[str, Any] = {"config": checkpoint.config.model_dump()}
    for field in dataclasses.fields(checkpoint):
        if field.name not in ("config", "state"):
            value = getattr(checkpoint, field.name)
            facts[field.name] = value.model_dump() if isinstance(value, Resizing) else value
            facts[field.name] = list(value) if isinstance(value, tuple) else facts[field.name]
    if path.suffix == ".safetensors":
        metadata = {"format": FORMAT, **{name: json.dumps(value) for name, value in facts.items()}}
        files.write(path, serialize_safetensors(checkpoint.state, metadata))
    else:
        state = {name: value.detach().cpu().contiguous() for name, value in checkpoint.state.items()}
        files.write(path, serialize_torch({"format": FORMAT, **facts, "state": state}))


def load(path: Path, hints: Hints | None = None) -> Checkpoint:
    """Reads a checkpoint onto the CPU: of ours, or of another library; or makes a model of timm.

    Args:
        path: of a file or folder, or `timm:NAME`.
        hints: what a file of another library does not say itself.

    Raises:
        InputError: missing, cut short, of no known layout, or holding more than weights.
    """
    hints = hints or Hints()
    if (name := timm_registry.find_name(path)) is not None:
        from compress.checkpoints.registered import load_registered  # which knows this module

        return apply_hints(load_registered(path, name, hints), hints)
    found = importers.read_checkpoint(path)
    if isinstance(found.tree, dict) and found.tree.get("format") == FORMAT:
        content = _parse_own(path, found.tree)
    elif found.metadata.get("format") == FORMAT:
        content = _parse_own(path, {**_parse_metadata(path, found.metadata), "state": found.tree})
    elif hints.model is not None:
        content = load_user_model(hints, found)
    else:
        content = from_imported(importers.convert(found, hints))
    if hints.model is not None:
        content = _relabel(path, content, hints.model)
    return apply_hints(content, hints)


def apply_hints(content: Checkpoint, hints: Hints) -> Checkpoint:
    """What the user says of images in place of a file."""
    if hints.normalize not in (None, DATA):
        ((mean, std),) = list_normalizations(hints.normalize, content.config.channels).values()
        content = replace(content, mean=mean, std=std)
    if hints.resize is None and hints.interpolation is None:
        return content
    return replace(content, resizing=override_resizing(content, hints))


def override_resizing(content: Checkpoint, hints: Hints) -> Resizing:
    """What `--resize` and `--interpolation` say, else the file; raises InputError where they say nonsense."""
    said = content.resizing or STRETCHED
    if hints.resize is not None:
        said = parse_resizing(hints.resize, content.config.image_size, said.interpolation, content.mean)
    return said.model_copy(update={"interpolation": hints.interpolation or said.interpolation})


def load_user_model(hints: Hints, found: Content | None = None) -> Checkpoint:
    """A model that the user's code makes, with the weights of a file, or else those that the code gives.

    Raises:
        InputError: the code does not work, or the weights are not its.
    """
    assert hints.model is not None
    model = user_models.wrap_model(hints.model, hints)
    state, notes, choice = match_weights(found, model, hints) if found else (model.state_dict(), [], "")
    origin = {"family": f"code of {model.config.factory}", "numbers": importers.find_dtype(state), "notes": notes}
    return Checkpoint(model.config, (), state, origin=origin | {"choice": choice})


def _relabel(path: Path, content: Checkpoint, factory: str) -> Checkpoint:
    """A model of the user's code is called as the user calls it."""
    if not isinstance(content.config, ModuleConfig):
        raise InputError(f"{path} is a Vision Transformer that compress knows without its code; leave out --model")
    named = {"factory": user_models.shorten_spec(factory), "name": user_models.get_base_name(factory)}
    return replace(content, config=content.config.model_copy(update=named))


def _parse_metadata(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a safetensors file of ours says beside its weights."""
    try:
        return {name: json.loads(text) for name, text in metadata.items() if name != "format"}
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is a damaged compress checkpoint (metadata that are no JSON); {REMEDY}") from error


def _parse_own(path: Path, content: dict[str, Any]) -> Checkpoint:
    try:
        kind = ModuleConfig if content["config"].get("kind") else ViTConfig
        checkpoint = Checkpoint(
            config=kind(**validation.check_settings(content["config"])),
            methods=tuple(map(validation.check_settings, content["methods"])),
            state=validation.check_state(content["state"], floats=kind is ViTConfig and not content["methods"]),
            dataset=validation.check_text(content["dataset"]),
            classes=tuple(map(validation.check_text, content["classes"])),
            mean=tuple(float(value) for value in content["mean"]),
            std=tuple(float(value) for value in content["std"]),
            resizing=Resizing.model_validate(content["resizing"]) if content.get("resizing") else None,
            converted=bool(content["converted"]),
            pretrained=bool(content.get("pretrained", False)),
            calibration=validation.check_facts(content.get("calibration"), images=int, sha256=str),
            origin=validation.check_origin(content.get("origin")),
        )
        validation.check_sizes(checkpoint)
    except ValidationError as error:
        raise files.explain(error, f"{path} (config)") from error
    except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        fault = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{path} is a damaged compress checkpoint ({fault}); {REMEDY}") from error
    return checkpoint


def from_imported(imported: ImportedModel) -> Checkpoint:
    """A model of another library; one without a head is as if it was pretrained."""
    facts = {name: getattr(imported, name) for name in ("classes", "mean", "std", "resizing")}
    origin = {"family": imported.layout, "numbers": imported.dtype, "notes": list(imported.notes)}
    origin |= {"parameters": imported.parameters, "choice": imported.choice}
    return Checkpoint(imported.config, (), imported.state, **facts, pretrained=not imported.head, origin=origin)


def hash_state(state: Mapping[str, Tensor]) -> str:
    """Changes when a name or a bit of the weights does."""
    found = hashlib.sha256()
    for name, value in state.items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


@dataclass(frozen=True)
class StateFile:
    """Where an interrupted training is kept; the `Snapshot` of `baselines.train`."""

    path: Path

    def load(self) -> dict[str, Any] | None:
        if not self.path.exists():
            return None
        try:
            return importers.load_torch_file(self.path)
        except InputError as error:
            raise InputError(f"{self.path} is damaged; remove it, and the training begins anew") from error

    def step(self) -> int | None:
        """The step after which the training was kept, read without its weights; None where there is no whole file."""
        try:
            return int(importers.load_torch_file(self.path)["step"])
        except (KeyError, TypeError, ValueError):  # one that is damaged is a ValueError too
            return None

    def save(self, state: dict[str, Any]) -> None:
        files.write(self.path, serialize_torch(state))

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        files.forget_halves(self.path)
