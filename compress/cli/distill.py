"""`compress distill`."""

from pathlib import Path
from typing import Annotated

import typer

from compress.cli import processes, terminal
from compress.cli.options import (
    DataName,
    Device,
    Ema,
    Heads,
    ImageSize,
    Normalise,
    Out,
    Resume,
    Seed,
    TensorBoard,
    Threads,
    hints,
)


def distill(
    teacher: Annotated[Path, typer.Argument(help="A checkpoint to learn from, of any geometry, compressed or not.")],
    student: Annotated[Path, typer.Option(help="TOML file of the student; see configs/baselines/tiny.toml.")],
    data: DataName = None,
    kind: Annotated[
        str | None, typer.Option(help="soft: the teacher's probabilities, the default; hard: the class it chooses.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of soft answers; default 3.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = None,
    out: Out = Path("runs"),
    resume: Resume = True,
    tensorboard: TensorBoard = False,
    heads: Heads = None,
    image_size: ImageSize = None,
    normalise: Normalise = None,
    ema: Ema = True,
) -> None:
    """Train a smaller model that learns from a larger one too; goes on where it was interrupted."""
    processes.quieten()
    from baselines.errors import InputError
    from compress import config as config_
    from compress import variant
    from compress.training.distillation import FILE, Distillation, adopt

    if teacher.resolve() == (out / FILE).resolve():
        raise InputError(f"{teacher} would be replaced by its own student; give another --out")
    console = terminal.make_console()
    settings = config_.read(student, data, seed)
    given = {"kind": kind, "temperature": temperature}
    given = {name: value for name, value in given.items() if value is not None}
    known, anew = hints(heads, image_size, normalise, ema), None if resume else variant.Variant(())
    with processes.training(device, out, threads) as team:
        file = team.world.share(lambda: adopt(teacher, known, settings, out, console.print))
        table = {**settings.methods.get("distill", {}), **given, "teacher": str(file)}
        method = variant.make_method("distill", table)
        lesson = Distillation(
            method, settings, out, team.device, console.print, tensorboard=tensorboard, anew=anew, world=team.world
        )
        team.kept = lesson.kept
        console.print(f"vit: {lesson.baseline().path}, copied to {out / FILE}")
