"""Models that compress does not know: code of the user's, which runs because the user named it, and for nothing else.

    path/to/file.py:factory      package.module:factory      timm:NAME

A factory is called without arguments and gives an `nn.Module` for images (B, C, height, width) -> logits (B, classes);
a class of such modules will do, and so will a module. Checkpoints hold the factory's name for people to read. Nothing
is ever imported because a file says so: the name comes from the command line, or from the caller (`named_code.py`).

Legend: B images, C channels.
"""

import copy
import functools
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from baselines.classifier import Classifier, ImageConfig
from baselines.errors import InputError
from baselines.output import ClassifierOutput
from baselines.vit import VisionTransformer, ViTConfig
from compress.checkpoints import named_code
from compress.checkpoints.user_code import format_error, running
from compress.importers import Hints, timm_registry


class ModuleConfig(ImageConfig):
    """A model that only its code can make."""

    kind: Literal["module"] = "module"
    factory: str = Field(max_length=500)  # as the user typed it; read by people alone
    name: str = Field(pattern=r"^\w{1,80}$")  # of its variants, such as resnet18


class Wrapped(Classifier[ModuleConfig]):
    """Somebody else's module as a model of compress."""

    def __init__(self, module: nn.Module, config: ModuleConfig):
        super().__init__()
        self.config, self.module, self.last = config, module, nn.Identity()

    def compute_output(self, images: Tensor) -> ClassifierOutput:
        """See `Classifier`; some libraries hand out an object that holds the logits."""
        out = self.module(images)
        return ClassifierOutput(self.last(getattr(out, "logits", out)))

    @property
    def ends(self) -> tuple[nn.Module, nn.Module]:
        return self.module, self.last


def resolve_spec(spec: str | None) -> str | None:
    """What the user typed after --model, for this process and those it starts; a file by its whole path.

    Raises:
        InputError: it is no such name.
    """
    if spec is None:
        return None
    place, _, name = spec.rpartition(":")
    if not place or not (name.isidentifier() or timm_registry.find_name(spec)):
        raise InputError(f"--model {spec!r} names no code; write path/to/file.py:factory or package.module:factory")
    whole = f"{Path(place).resolve()}:{name}" if place.endswith(".py") else spec
    named_code.name_code(whole)
    return whole


def build_model(config: ImageConfig, path: Path | None = None, hints: Hints | None = None) -> Classifier:
    """A model as a checkpoint describes it, with any weights.

    Args:
        path: of the checkpoint, for messages.

    Raises:
        InputError: only code makes such a model, and the user did not name it, or it does not work.
    """
    if isinstance(config, ViTConfig):
        return VisionTransformer(config)
    assert isinstance(config, ModuleConfig)
    spec = (hints.model if hints else None) or named_code.get_code()  # for this file, or for the whole command
    if spec is None:
        raise InputError(
            f"{path or 'the model'} was made from the code of {config.factory}, which runs only where you name it: "
            f"bench, distill, quantize and export take --model {config.factory}, with its folders in front"
        )
    return Wrapped(load_module(spec), config)


def wrap_model(spec: str, hints: Hints) -> Wrapped:
    """A model of the user's code, where nothing is known of it but that.

    Raises:
        InputError: the code does not work, makes no classifier, or does not say what its images are.
    """
    module, shown = load_module(spec).eval(), shorten_spec(spec)
    said = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)  # of timm
    channels, *size = said.get("input_size", (0,)) if isinstance(said, Mapping) else (0,)
    size = hints.image_size or size
    if len(size) != 2:
        raise InputError(f"--model {shown} does not say how large its images are; say it with --image-size")
    first = next((each for each in module.modules() if isinstance(each, nn.Conv2d)), None)
    channels = channels if first is None else first.in_channels
    if not channels:
        raise InputError(
            f"--model {shown} has no convolution that tells how many channels its images have; give the module an "
            "attribute pretrained_cfg = {'input_size': (channels, height, width)}"
        )
    height, width = size
    classes = _count_classes(module, (channels, height, width), shown)
    config = ModuleConfig(
        image_size=(height, width), channels=channels, classes=classes, factory=shown, name=get_base_name(spec)
    )
    return Wrapped(module, config)


def get_base_name(spec: str) -> str:
    """What the baseline is called that a factory makes."""
    return spec.rpartition(":")[2].partition(".")[0]  # without the tag of weights of timm


def load_module(spec: str) -> nn.Module:
    """The module that the user's code makes; new weights are the same every time.

    Raises:
        InputError: there is no such code, it fails, or makes something else.
    """
    if (registered := timm_registry.find_name(spec)) is not None:
        return timm_registry.create_model(registered).module
    place, _, name = spec.rpartition(":")
    code, shown = _import_code(place), shorten_spec(spec)
    made = getattr(code, name, None)
    if isinstance(made, nn.Module):
        return copy.deepcopy(made).float()
    if not callable(made):
        raise InputError(f"--model {shown}: {place} has no function {name!r} that gives the model")
    try:
        with torch.random.fork_rng(devices=[]), running(f"{name}() of --model {shown}"):
            torch.manual_seed(0)
            made = made()
    except (Exception, SystemExit) as error:  # anything at all: it is the user's code
        raise InputError(
            f"--model {shown}: {name}() failed, called without arguments ({format_error(error)})"
        ) from error
    if not isinstance(made, nn.Module):
        raise InputError(f"--model {shown} gives {type(made).__name__}, not an nn.Module; let it return the model")
    return made.float()  # in which all models are rebuilt, whatever default its code has set


def shorten_spec(spec: str) -> str:
    """A factory as a person knows it, without the folders in front."""
    place, _, name = spec.rpartition(":")
    return f"{Path(place).name}:{name}" if place.endswith(".py") else spec


@functools.cache
def _import_code(place: str) -> ModuleType:
    """A file or module of the user's; its code runs once in a process."""
    path = Path(place)
    if place.endswith(".py") and not path.is_file():
        raise InputError(f"--model {place}: there is no such file; write path/to/file.py:factory")
    folder = str(path.resolve().parent if place.endswith(".py") else Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)  # last: what lies beside the user's code takes no library's place
    try:
        if not place.endswith(".py"):
            with running(f"the import of --model {place}"):
                return importlib.import_module(place)
        name = f"compress_model_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        code = sys.modules[name] = importlib.util.module_from_spec(spec)
        with running(f"the import of --model {place}"):
            spec.loader.exec_module(code)
    except (Exception, SystemExit) as error:  # anything at all: it is the user's code
        raise InputError(
            f"--model {place} cannot be imported ({format_error(error)}); correct it, or name another"
        ) from error
    return code


def _count_classes(module: nn.Module, shape: tuple[int, int, int], shown: str) -> int:
    """How many classes a model tells apart; raises InputError where it takes no such images, or gives no logits."""
    try:
        with torch.no_grad(), running(f"two images through --model {shown}"):
            out = module(torch.zeros(2, *shape))
    except Exception as error:  # anything at all: it is the user's code
        sizes = " x ".join(map(str, shape))
        raise InputError(
            f"--model {shown} fails on images of {sizes} ({format_error(error)}); --image-size gives them another size"
        ) from error
    logits = getattr(out, "logits", out)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 2 or logits.shape[1] < 2:
        got = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"--model {shown} gives {got} for two images, not logits (2, classes); wrap it in the factory")
    return logits.shape[1]
