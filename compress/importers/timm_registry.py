"""Models by the names that timm gives them: `timm:vit_tiny_patch16_224`, with a tag or without, where a path may stand.

Weights are those that timm, or Hugging Face, has left on this machine. Nothing is fetched: without them a model has
random ones, the same every time, and says so. They are read as all files are (`readers.py`); what timm changes of
their names and shapes then, it changes itself. What it says of sizes and images is handed on as its `config.json`.
"""

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines.errors import InputError
from compress.importers.base import Content
from compress.importers.readers import read_checkpoint

PREFIX = "timm:"
NAME = re.compile(r"\w{1,80}(\.\w{1,80})?")  # of an architecture, and the tag of its weights
FILES = ("model.safetensors", "pytorch_model.bin")  # in a repository of Hugging Face, in this order
KEPT = ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation", "label_names")  # of pretrained_cfg


@dataclass(frozen=True)
class Registered:
    """A model of timm."""

    name: str
    module: nn.Module
    weights: Path | None  # the file they are from; None: they are random

    @property
    def warning(self) -> str:
        """What has to be said of random weights; empty for others."""
        if self.weights is not None:
            return ""
        fetch = f"import timm; timm.create_model({self.name!r}, pretrained=True)"
        return (
            "its weights are not on this machine, and random ones stand in: only speed and size mean something, "
            f'accuracy does not; python -c "{fetch}" fetches them'
        )

    @property
    def state(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.module.state_dict().items()}

    def describe(self, path: Path) -> Content:
        """As the file of a model of timm with its `config.json`."""
        model: Any = self.module
        said: Any = getattr(model, "pretrained_cfg", None) or {}
        heads = next(
            (each.num_heads for each in model.modules() if isinstance(getattr(each, "num_heads", None), int)), None
        )
        settings = {
            "architecture": said.get("architecture", ""),
            "global_pool": getattr(model, "global_pool", ""),
            "model_args": {"num_heads": heads, "no_embed_class": getattr(model, "no_embed_class", None)},
            "pretrained_cfg": {name: said.get(name) for name in KEPT},
        }
        return Content(path, self.state, settings)


def find_name(path: Path | str | None) -> str | None:
    """The name behind `timm:`; None for the path of a file."""
    text = str(path)
    return text.removeprefix(PREFIX) if text.startswith(PREFIX) and not os.path.lexists(text) else None


def place_files(path: Path) -> Path:
    """The path that names of files are made from: that of a checkpoint; in this folder for a model of timm."""
    name = find_name(path)
    return path if name is None else Path(name.replace(".", "-"))


def create_model(name: str) -> Registered:
    """A model in evaluation mode, on the CPU.

    Raises:
        InputError: timm is not installed, knows no such model, or does not take the weights that are here.
    """
    try:
        import timm
    except ImportError as error:
        raise InputError(f"{PREFIX}{name} needs the package timm; install it with: pip install timm") from error
    known = _find_settings(name)
    weights = _find_weights(known)
    options: dict[str, Any] = {}
    if weights is not None:
        options = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": read_checkpoint(weights).tree}}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module: nn.Module = timm.create_model(name, **options)
    except Exception as error:  # of timm, whatever it is
        said = (str(error) or type(error).__name__).splitlines()[0]
        where = f" with the weights of {weights}" if weights else ""
        raise InputError(f"timm cannot make {name}{where} ({said:.200}); give another model") from error
    return Registered(name, module.float().eval(), weights)


def _find_settings(name: str) -> Any:
    """timm's `PretrainedCfg` of a model; None where it has none. Raises InputError where timm knows no such model."""
    import timm
    from timm.models import get_pretrained_cfg

    architecture = name.partition(".")[0]
    if not NAME.fullmatch(name) or not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=1)
        remedy = f"did you mean {PREFIX}{close[0]}?" if close else "timm.list_models() lists them"
        raise InputError(f"timm knows no model {name[:80]!r}; {remedy}")
    try:
        return get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
        raise InputError(f"timm has no weights {name!r}; it has {tags:.400}") from error


def _find_weights(known: Any) -> Path | None:
    """Where the weights lie that timm would fetch; None where they are not on this machine."""
    from huggingface_hub import try_to_load_from_cache  # which timm needs, too

    repository, _, revision = str(getattr(known, "hf_hub_id", None) or "").partition("@")
    if repository:
        named = getattr(known, "hf_hub_filename", None)
        for file in (named,) if named else FILES:
            found = try_to_load_from_cache(repository, file, revision=revision or None)
            if isinstance(found, str):
                return Path(found)
    url = str(getattr(known, "url", None) or "")
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    usable = bool(url) and file.suffix != ".npz" and file.is_file()  # npz is not for timm's usual way
    return file if usable else None
