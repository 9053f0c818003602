"""What stays of an evaluation: the best file beside the checkpoint, and which recipe it was."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from baselines.errors import InputError
from compress import runtimes, sidecar
from compress.evaluate.options import describe_command
from compress.measure import environment
from compress.runtimes import choices
from compress.runtimes.choices import Choice
from compress.runtimes.graph_files import fix_batch, relabel
from compress.sidecar import Origin
from compress.verbs.quantize.recipes import Recipe
from compress.verbs.quantize.request import Request
from compress.verbs.quantize.source import Source
from reports import Row

DISTURBED = ("other load", "throttled")  # what warnings begin with, of timings that are not remembered


def check_targets(request: Request, n_images: int, console: Console) -> None:
    """Says before the work which files it may not be able to replace.

    Raises:
        InputError: one is of other weights, or was scored on more images.
    """
    origin = Origin.of(request, request.path, describe_command(sys.argv))
    endings = dict.fromkeys(f"int8{each.suffix}" for each in runtimes.describe_all())
    for ending in (*endings, *(["fp8.pth"] if request.device == "cuda" else [])):
        target = request.stem.with_name(f"{request.stem.name}.{ending}")
        if not sidecar.check_target(target, origin, n_images):
            console.print(f"{target}: nothing says what made it; it is replaced by the same alone, or with --force")


def keep_file(
    request: Request, source: Source, recipes: Sequence[Recipe], rows: Sequence[Row], best: int, console: Console
) -> list[Path]:
    """Copies the file that is kept beside the checkpoint, and the float ONNX file where there is one.

    Raises:
        InputError: a better file is there, or one of unknown origin.
    """
    origin = replace(Origin.of(request, request.path, describe_command(sys.argv)), tested=source.tested)
    made = source.locate(recipes[best])
    if not runtimes.is_checkpoint(made):
        free, made = made, source.folder / f"kept_{made.name}"
        relabel(free, made, {"runtime": json.dumps(recipes[best].runtime.name)})
        if request.fixed:
            fix_batch(made, made, request.batch_size)
    target = request.stem.with_name(f"{request.stem.name}.{rows[best].dtype}{made.suffix}")
    contents = {target.with_suffix(each.suffix): each.read_bytes() for each in reversed(runtimes.list_files(made))}
    sidecar.write_files(contents, target, origin, rows[best])
    floats = [source.locate(each) for each in recipes if each.method is None and each.runtime.suffix == ".onnx"]
    whole = next((path for path in floats if path.exists()), None)
    if whole is None:
        return list(contents)
    beside = request.stem.with_name(f"{request.stem.name}.onnx")
    if len(runtimes.list_files(whole)) > 1:
        console.print(
            f"{beside.name} in float would take {runtimes.count_bytes(whole) / 1e9:.1f} GB: not kept; "
            "compress export writes it"
        )
        return list(contents)
    try:
        sidecar.write_files({beside: whole.read_bytes()}, beside, origin)
    except InputError as error:  # it is no more than what the other is compared with
        console.print(f"left as it is: {error}")
        return list(contents)
    return [beside, *contents]


def remember_choice(
    key: str, model: str, recipes: Sequence[Recipe], rows: Sequence[Row], best: int, console: Console
) -> None:
    """Keeps the choice for the next model of this geometry, unless other programs disturbed it."""
    row = rows[best]
    if any(marker in warning for warning in row.warnings for marker in DISTURBED):
        console.print("not remembered as the fastest on this machine: other programs were running")
        return
    speeds = {each.name: round(row.overall, 3) for each, row in zip(recipes, rows, strict=True) if row.overall}
    choice = Choice(
        model=model if row.device == "cpu" else f"{model}, on {row.device_name}",
        machine=environment.cpu_name(),
        batch_size=row.batch_size,
        threads=row.threads,
        chosen=recipes[best].name,
        speedup=row.overall or 0.0,
        why=row.chosen or "",
        tried=speeds,
    )
    try:
        choices.remember(key, choice)
    except InputError as error:
        console.print(f"warning: {error}")
