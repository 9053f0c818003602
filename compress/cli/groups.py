"""Groups of options: a command takes dataclasses, and the person at the terminal sees their fields as options.

@with_groups
def verb(checkpoint: CheckpointFile, data: DataOptions, source: SourceOptions) -> None: ...
"""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from compress.cli import processes
from compress.cli.options import (
    Config,
    DataName,
    Device,
    Ema,
    Heads,
    ImageSize,
    Interpolate,
    Model,
    Normalize,
    Out,
    Resize,
    Resume,
    Seed,
    SkipUnreadable,
    TensorBoard,
    Threads,
    Weights,
    hints,
)

if TYPE_CHECKING:
    from compress.config import BenchConfig
    from compress.importers import Hints


def with_groups(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command as typer reads it: each parameter that is a dataclass is replaced by the fields of that dataclass.

    A field is annotated as a parameter would be, with `typer.Option` inside `Annotated`; without a default the option
    is required. An instance as the parameter's default brings other defaults. Names must be distinct over all groups.
    """
    annotations = get_type_hints(command, include_extras=True)
    groups: dict[str, tuple[type[Any], list[str]]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        kind = annotations[parameter.name]
        if not dataclasses.is_dataclass(kind):
            parameters.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        assert isinstance(kind, type)
        of_fields, fields = get_type_hints(kind, include_extras=True), dataclasses.fields(kind)
        groups[parameter.name] = kind, [field.name for field in fields]
        for field in fields:
            value = field.default if parameter.default is parameter.empty else getattr(parameter.default, field.name)
            default = parameter.empty if value is dataclasses.MISSING else value
            annotation = of_fields[field.name]
            parameters.append(
                inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            )

    def flat(**values: Any) -> Any:
        made = {name: kind(**{key: values.pop(key) for key in keys}) for name, (kind, keys) in groups.items()}
        return command(**values, **made)

    return declare(flat, command, parameters)


def declare(flat: Callable[..., Any], command: Callable[..., Any], parameters: list[inspect.Parameter]) -> Any:
    """`flat`, which typer sees as `command` with these parameters."""
    flat.__name__, flat.__doc__, flat.__module__ = command.__name__, command.__doc__, command.__module__
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(flat)["__signature__"] = inspect.Signature(parameters)
    return flat


@dataclass(frozen=True)
class FileOptions:
    """What the file of a checkpoint does not say of its model."""

    heads: Heads = None
    image_size: ImageSize = None
    ema: Ema = True
    weights: Weights = None

    @property
    def hints(self) -> "Hints":
        """Raises InputError where a size is none."""
        return hints(self.heads, self.image_size, ema=self.ema, weights=self.weights)


@dataclass(frozen=True)
class ViTOptions(FileOptions):
    """What the file of a checkpoint does not say of its model and images."""

    normalize: Normalize = None
    resize: Resize = None
    interpolation: Interpolate = None

    @property
    def preprocessing(self) -> list[str]:
        """The options about images that were given."""
        given = {"--normalize": self.normalize, "--resize": self.resize, "--interpolation": self.interpolation}
        return [option for option, value in given.items() if value is not None]

    @property
    def hints(self) -> "Hints":
        from compress.importers.preprocessing import check_interpolation

        how = check_interpolation(self.interpolation)
        return dataclasses.replace(super().hints, normalize=self.normalize, resize=self.resize, interpolation=how)


@dataclass(frozen=True)
class SourceOptions(ViTOptions):
    """What the file of a checkpoint does not say, or the code that makes a model in its place."""

    code: Model = None  # so called since `model` is an argument of some commands

    @property
    def hints(self) -> "Hints":
        from compress.checkpoints import user_models

        return dataclasses.replace(super().hints, model=user_models.resolve_spec(self.code))


@dataclass(frozen=True)
class DataOptions:
    """Settings, and the images they are for."""

    config: Config = None
    data: DataName = None
    skip_unreadable: SkipUnreadable = False
    seed: Seed = None

    def apply(self, settings: "BenchConfig") -> "BenchConfig":
        """Settings with what only options say."""
        return settings.model_copy(update={"skip_unreadable": True}) if self.skip_unreadable else settings


@dataclass(frozen=True)
class MachineOptions:
    """What the work runs on."""

    device: Device = "auto"
    threads: Threads = None

    @property
    def processors(self) -> int:
        """Those asked for, or all of this machine, shared among the processes that `torchrun` started."""
        return self.threads or processes.processors()


@dataclass(frozen=True)
class TrainingOptions(MachineOptions, DataOptions):
    """What all trainings take."""

    out: Out = Path("runs")
    resume: Resume = True
    tensorboard: TensorBoard = False
