"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from compress.importers import Hints


def _remark_on_threads(threads: int | None) -> int | None:
    from compress.cli import terminal
    from compress.measure.environment import available_cpus

    if threads is not None and threads > (usable := available_cpus()):
        terminal.say(
            f"note: --threads {threads} on {usable} processors: threads wait for one another, and figures with them"
        )
    return threads


Config = Annotated[Path | None, typer.Option("--config", help="TOML file of settings; see configs/.")]
DataName = Annotated[
    str | None, typer.Option("--data", help="digits, cifar10, cifar100, a folder of class folders, or hf:NAME.")
]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out images of folders that cannot be read, and say which.")
]
Out = Annotated[Path, typer.Option("--out", help="Run directory: models, artifacts, rows, report.")]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, max=1024, callback=_remark_on_threads, help="Default: all processors of this process."
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Of training; default 0.")]
CheckpointFile = Annotated[
    Path,
    typer.Argument(
        help="A checkpoint: of compress, timm, torchvision, Hugging Face (a folder), Google (.npz); or timm:NAME, a "
        "model by its name in timm."
    ),
]
PANEL = "What a checkpoint of another library does not say"
Heads = Annotated[
    int | None, typer.Option("--heads", min=1, help="Attention heads of each block.", rich_help_panel=PANEL)
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        "--image-size",
        help="HEIGHTxWIDTH in pixels, where patches make no square, and of most models that --model makes.",
        rich_help_panel=PANEL,
    ),
]
Normalize = Annotated[
    str | None,
    typer.Option(
        "--normalize",
        "--normalise",
        help="imagenet, half, clip, none, data, or means/deviations as in 0.5,0.5,0.5/0.25,0.25,0.25; default: the one "
        "that suits labelled training images best.",
        rich_help_panel=PANEL,
    ),
]
Resize = Annotated[
    str | None,
    typer.Option(
        "--resize",
        help="How images of other sizes are resized: stretch, crop (the middle), pad, the shorter edge in pixels "
        "before the middle is cut out, as 256, or timm's crop_pct, as 0.9; default: as the file says, else stretch.",
        rich_help_panel=PANEL,
    ),
]
Interpolate = Annotated[
    str | None,
    typer.Option(
        "--interpolation",
        help="Of resizing: nearest, box, bilinear, hamming, bicubic, lanczos; default: the file's, else bilinear.",
        rich_help_panel=PANEL,
    ),
]
Ema = Annotated[
    bool,
    typer.Option("--ema/--no-ema", help="As --weights averaged, or --weights last.", rich_help_panel=PANEL),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="Which of several models in a file: averaged (of EMA or SWA, or the teacher; the default), last, or its "
        "name there, such as student.",
        rich_help_panel=PANEL,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Code that makes a model which compress does not know: path/to/file.py:factory or package.module:factory. "
        "It runs because you name it here.",
    ),
]
Exhaustive = Annotated[
    bool,
    typer.Option("--exhaustive", help="Measure every candidate to the end, also those that can no longer win."),
]
Init = Annotated[
    Path | None, typer.Option(help="Checkpoint that the baseline's training begins with: a baseline or pretrained.")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or auto.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be built and measured and about how long it takes; stop.")
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Replace a file that is better by its record, or has none; see FILE.json beside it."),
]
Resume = Annotated[
    bool,
    typer.Option("--resume/--no-resume", help="Go on where it was interrupted, or discard what there is of it."),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write each epoch as TensorBoard reads it: OUT/tensorboard.")
]


def hints(
    heads: int | None,
    image_size: str | None,
    normalize: str | None = None,
    ema: bool = True,
    model: str | None = None,
    weights: str | None = None,
) -> "Hints":
    """What the options say of a checkpoint; raises InputError where a size is none, or a model names no code."""
    from baselines.errors import InputError
    from compress.checkpoints import user_models
    from compress.importers import Hints

    size = None
    if image_size is not None:
        parts = image_size.lower().split("x")
        if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise InputError(f"--image-size {image_size!r} is no size; give HEIGHTxWIDTH in pixels, such as 224x224")
        size = (int(parts[0]), int(parts[-1]))
    return Hints(heads, size, normalize, ema, user_models.resolve_spec(model), weights)
