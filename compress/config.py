"""A TOML file, or nothing at all -> settings of a bench.

Files name only what differs from the preset of their data set; unknown keys are errors.
"""

import sysconfig
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from baselines.classifier import ImageConfig
from baselines.errors import InputError
from baselines.pretrain import PretrainConfig
from baselines.subset import Subset
from baselines.train import TrainConfig
from baselines.vit import ViTConfig
from compress import files
from compress.checkpoints import initial
from compress.importers import Hints
from compress.methods import METHODS

DEEPEST = 10  # tables inside one another; settings need four


class BenchConfig(BaseModel):
    """Everything that decides what is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = "digits"  # digits, cifar10, cifar100, hf:NAME, webdataset:SHARDS or folder:PATH
    skip_unreadable: bool = False  # images of folders that cannot be read are left out and counted
    subset: Subset | None = None  # how many images of each class; all where there is none
    seed: int = Field(default=0, ge=0, lt=2**31)  # of weights, order and augmentation
    init: str | None = None  # checkpoint that the training of the baseline begins with; its geometry is [model]'s
    variants: tuple[str, ...] = ("vit", "avit", "avit_int8")  # that a bench compares
    calibration_images: int = Field(default=256, gt=0, le=10**9)  # of the training split
    model: ViTConfig = ViTConfig()
    train: TrainConfig = TrainConfig()  # the baseline
    pretrain: PretrainConfig = PretrainConfig()  # the baseline, without labels
    finetune: TrainConfig = TrainConfig()  # variants whose methods train
    methods: dict[str, dict[str, Any]] = {}  # hyper-parameters by method name


PLACES = (  # of the folder configs: a checkout, an installed wheel
    Path(__file__).resolve().parents[1],
    Path(sysconfig.get_path("data")) / "share" / "compress",
)

Tables = dict[str, Any]  # of settings; presets name what differs from the defaults
DIGITS_TRAIN = {"epochs": 10, "batch_size": 32, "warmup_epochs": 2, "ema": 0.98, "crop_padding": 1, "flip": False}
# 8x8 scans as 64 tokens of one pixel: the smallest model here on which token reduction saves time (docs/log.md).
DIGITS: Tables = {
    "data": "digits",
    "model": {
        "image_size": 8,
        "channels": 1,
        "patch_size": 1,
        "dim": 128,
        "depth": 6,
        "heads": 2,
        "mlp_dim": 512,
        "tokenizer": "conv",
    },
    "train": DIGITS_TRAIN,
    "pretrain": {**DIGITS_TRAIN, "lr": 1e-3, "mask_size": 2},
    "finetune": {**DIGITS_TRAIN, "epochs": 4, "warmup_epochs": 1, "ema": 0.99},
}

SMALL_IMAGES_TRAIN = {"epochs": 16, "batch_size": 128, "lr": 1.5e-3, "warmup_epochs": 1, "ema": 0.998}
# Photographs of about 32 pixels, for a CPU and an hour of patience: configs/baselines/cct_cpu.toml.
SMALL_IMAGES: Tables = {
    "data": "cifar10",
    "model": {"dim": 128, "depth": 4, "heads": 4, "mlp_dim": 256, "tokenizer": "cct", "pool": "seq"},
    "train": SMALL_IMAGES_TRAIN,
    "pretrain": SMALL_IMAGES_TRAIN,
    "finetune": {"epochs": 3, "batch_size": 128, "lr": 3e-4, "warmup_epochs": 0.5, "ema": 0.998},
}

# A model of photographs has seen many more than are here: where it learns on, it should move little, its lower blocks
# least (BEiT, arXiv 2106.08254), and the average of a short training should not hold on to where it began.
LARGE = 64  # pixels along a side
GENTLE = {"batch_size": 32, "warmup_epochs": 0.5, "ema": 0.9}
PHOTOGRAPHS_TRAIN = {**GENTLE, "epochs": 5, "lr": 1e-4, "layer_decay": 0.75, "head_lr": 10.0}
PHOTOGRAPHS: Tables = {"train": PHOTOGRAPHS_TRAIN, "finetune": {**GENTLE, "epochs": 3, "lr": 3e-5}}


def preset(data: str, known: ImageConfig | None = None) -> Tables:
    """Settings for a data set, and for a model that is there already."""
    base = DIGITS if data == "digits" else {**SMALL_IMAGES, "data": data}
    return merge(base, PHOTOGRAPHS) if known and max(known.image_size) >= LARGE else base


def read(
    path: Path | None,
    data: str | None = None,
    seed: int | None = None,
    init: Path | None = None,
    hints: Hints | None = None,
    known: ImageConfig | None = None,
) -> BenchConfig:
    """Settings from a file, or from the preset of the data set where there is none.

    Args:
        data, seed, init: options that win over the file.
        hints: what the file of `init` does not say itself.
        known: a model that is worked on.

    Raises:
        InputError: missing file, broken TOML, unknown key or impossible value.
    """
    given = read_toml(path, "--config") if path is not None else {}
    options = {"data": data, "seed": seed, "init": str(init) if init else None}
    given = {**given, **{name: value for name, value in options.items() if value is not None}}
    return resolve(given, f"--config {path}" if path else "settings", hints, known)


def read_for_checkpoint(
    path: Path, dataset: str, config: Path | None, data: str | None, seed: int | None, known: ImageConfig
) -> BenchConfig:
    """Settings for work on a checkpoint: on the data set of the option, of the file, or else of the checkpoint.

    Args:
        dataset: that the checkpoint names; empty where it names none.
        known: its model.

    Raises:
        InputError: as `read`, or nobody names a data set.
    """
    named = data or (read_toml(config, "--config").get("data") if config else None)
    if not named and not dataset:
        raise InputError(f"{path} records no dataset; pass one with --data PATH")
    return read(config, data if named else dataset, seed, known=known)


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The tables of a TOML file; raises InputError, which calls the file `what`, where it cannot be read.

    Args:
        path: one that begins with configs/ and is not there is looked for among the files that come with compress.
    """
    if path.parts[:1] == ("configs",) and not path.exists():
        path = next((place / path for place in PLACES if (place / path).is_file()), path)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read ({error.strerror}); give the path of a TOML file") from error
    except RecursionError as error:
        raise InputError(f"{what} {path} is nested too deeply; correct it") from error
    except ValueError as error:  # of TOML, of its encoding, or a number with thousands of digits
        raise InputError(f"{what} {path} is not valid TOML ({error}); correct it") from error
    _check_values(tables, f"{what} {path}")
    return tables


def _check_values(tables: dict[str, Any], where: str) -> None:
    """Raises InputError for what TOML allows and no setting, whichever it is, can be."""
    waiting: list[tuple[Any, int]] = [(tables, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST:
            raise InputError(f"{where} is nested too deeply; correct it")
        if isinstance(value, str) and "\0" in value:
            raise InputError(f"{where}: {value!r} holds a NUL character, which no name or path can; remove it")
        if isinstance(value, dict | list):
            parts = value if isinstance(value, list) else [*value, *value.values()]
            waiting += [(part, depth + 1) for part in parts]


def fill_from_preset(given: Tables, hints: Hints | None = None, known: ImageConfig | None = None) -> Tables:
    """What a file names, over the preset of its data set.

    Where a training begins with a checkpoint, its geometry replaces the preset's, and its data set is the default.
    """
    if not isinstance(given.get("init"), str):
        return merge(preset(str(given.get("data", "digits")), known), given)
    start = initial.read_initial(given["init"], hints).content
    if "data" not in given and not start.dataset:
        raise InputError(f"--init {given['init']} records no dataset; pass the training images with --data")
    base = preset(str(given.get("data", start.dataset)), start.config)
    return merge({**base, "model": start.config.model_dump(exclude={"classes"})}, given)


def resolve(given: dict[str, Any], where: str, *others: Any) -> BenchConfig:
    """What the tables of a file ask for, over a preset for `others`; an InputError names `where`, if that cannot be."""
    try:
        config = BenchConfig(**fill_from_preset(given, *others))
    except ValidationError as error:
        raise files.explain(error, where) from error
    for name, values in config.methods.items():  # also of methods that no variant asks for: it may be misspelt
        if name not in METHODS:
            raise InputError(f"{where}: [methods.{name}] is no method; choose from {', '.join(METHODS)}")
        try:
            METHODS[name](**values)
        except ValidationError as error:
            raise files.explain(error, f"{where} [methods.{name}]") from error
    return config


def shorten_finetuning(config: BenchConfig, epochs: int) -> BenchConfig:
    """The settings with so many epochs of fine-tuning, whose warm-up is as much shorter."""
    tuning = config.finetune
    share = min(epochs / max(tuning.epochs, 1), 1)
    short = {"epochs": epochs, "steps": 0, "warmup_epochs": tuning.warmup_epochs * share}
    return config.model_copy(update={"finetune": tuning.model_copy(update=short)})


def override_training(config: BenchConfig, table: str, given: dict[str, Any]) -> BenchConfig:
    """The settings with other values in a table of a training; options of the command line say them.

    Fewer epochs shorten the warm-up as much; epochs count where the table says steps.

    Raises:
        InputError: a value is none that the table takes.
    """
    before: TrainConfig = getattr(config, table)
    if "epochs" in given:
        share = min(given["epochs"] / max(before.epochs, 1), 1)
        given = {"steps": 0, "warmup_epochs": before.warmup_epochs * share, **given}
    try:
        changed = type(before).model_validate({**before.model_dump(exclude_unset=True), **given})
    except ValidationError as error:
        raise files.explain(error, f"options of [{table}]") from error
    return config.model_copy(update={table: changed})


def make_quick(config: BenchConfig) -> tuple[BenchConfig, tuple[str, ...]]:
    """Settings for a look at what the product does, and the warning that belongs to every figure of it."""
    model, train, finetune = config.model, config.train, config.finetune
    depth, epochs = model.depth if config.init else -(-model.depth // 2), -(-train.epochs // 5)
    short = {
        "model": model.model_copy(update={"depth": depth, "block_sizes": (model.block_sizes or ())[:depth] or None}),
        "train": train.model_copy(update={"epochs": epochs, "warmup_epochs": train.warmup_epochs / 5}),
        "finetune": finetune.model_copy(update={"epochs": 1, "warmup_epochs": min(finetune.warmup_epochs, 0.2)}),
    }
    note = f"quick: {depth} of {model.depth} blocks, trained for {epochs} of {train.epochs} epochs, to see how it goes"
    return config.model_copy(update=short), (note,)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` wins, key by key, in tables too."""
    merged = dict(base)
    for name, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(name), dict)
        merged[name] = merge(base[name], value) if both else value
    return merged
