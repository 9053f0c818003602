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
            f"note: --threads {threads} on {usable} processors: threads wait for one another, so timings are too long"
        )
    return threads


Config = Annotated[Path | None, typer.Option("--config", help="TOML file of settings; see configs/.")]
DataName = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="digits, cifar10, cifar100, a folder with one subfolder per class, hf:NAME, or webdataset:SHARDS.",
    ),
]
SkipUnreadable = Annotated[bool, typer.Option("--skip-unreadable", help="Skip unreadable image files and list them.")]
Out = Annotated[Path, typer.Option("--out", help="Output directory.")]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=1024,
        callback=_remark_on_threads,
        help="CPU threads; default: all available processors.",
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Random seed for training; default: 0.")]
CheckpointFile = Annotated[
    Path,
    typer.Argument(
        help="Checkpoint of compress, timm, torchvision, Hugging Face (a folder) or Google (.npz), or timm:NAME."
    ),
]
PANEL = "Missing metadata (third-party checkpoints)"
Heads = Annotated[int | None, typer.Option("--heads", min=1, help="Attention heads per block.", rich_help_panel=PANEL)]
ImageSize = Annotated[
    str | None,
    typer.Option(
        "--image-size",
        help="HEIGHTxWIDTH in pixels, if the patch grid is not square, and for most models from --model.",
        rich_help_panel=PANEL,
    ),
]
Normalize = Annotated[
    str | None,
    typer.Option(
        "--normalize",
        "--normalise",
        help="imagenet, half, clip, none, data, or means/stds such as 0.5,0.5,0.5/0.25,0.25,0.25; default: the most "
        "accurate on labelled training images.",
        rich_help_panel=PANEL,
    ),
]
Resize = Annotated[
    str | None,
    typer.Option(
        "--resize",
        help="Resizing of other image sizes: stretch, crop (center crop), pad, the shorter edge in pixels before a "
        "center crop (256), or timm's crop_pct (0.9); default: from the checkpoint, else stretch.",
        rich_help_panel=PANEL,
    ),
]
Interpolate = Annotated[
    str | None,
    typer.Option(
        "--interpolation",
        help="nearest, box, bilinear, hamming, bicubic or lanczos; default: from the checkpoint, else bilinear.",
        rich_help_panel=PANEL,
    ),
]
Ema = Annotated[
    bool,
    typer.Option("--ema/--no-ema", help="Same as --weights averaged or --weights last.", rich_help_panel=PANEL),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="Which of several models in a file to use: averaged (EMA, SWA or teacher; the default), last, or its name "
        "in the file, such as student.",
        rich_help_panel=PANEL,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Function that builds a custom model: path/to/file.py:factory or package.module:factory. This code is "
        "executed.",
    ),
]
Exhaustive = Annotated[
    bool,
    typer.Option("--exhaustive", help="Measure every candidate to the end; no early elimination."),
]
Init = Annotated[
    Path | None, typer.Option(help="Checkpoint to start training from (a baseline or a pretrained model).")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or auto.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan with a time estimate, and exit.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Overwrite an existing file even if it is better, or has no record (FILE.json)."),
]
Resume = Annotated[
    bool,
    typer.Option("--resume/--no-resume", help="Resume an interrupted run, or start over."),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Log every epoch for TensorBoard, to OUT/tensorboard.")
]


def hints(heads: int | None, image_size: str | None, *, ema: bool, weights: str | None) -> "Hints":
    """What the options say of a checkpoint; raises InputError where a size is none."""
    from baselines.errors import InputError
    from compress.importers import Hints

    size = None
    if image_size is not None:
        parts = image_size.lower().split("x")
        if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise InputError(f"--image-size {image_size!r} is not a size; give HEIGHTxWIDTH in pixels, such as 224x224")
        size = (int(parts[0]), int(parts[-1]))
    return Hints(heads=heads, image_size=size, ema=ema, weights=weights)
