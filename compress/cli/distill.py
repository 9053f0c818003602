"""`compress distill`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from compress.cli import processes, terminal
from compress.cli.groups import SourceOptions, TrainingOptions, with_groups
from compress.cli.options import Force


@dataclass(frozen=True, kw_only=True)
class StudentOptions(TrainingOptions):
    """What a training takes, where the settings are those of the student."""

    config: Annotated[
        Path,
        typer.Option("--student", help="TOML file with the settings of the student; see configs/baselines/tiny.toml."),
    ] = field()  # required


@with_groups
def distill(
    teacher: Annotated[Path, typer.Argument(help="Teacher checkpoint, of any architecture, compressed or not.")],
    training: StudentOptions,
    source: SourceOptions,
    kind: Annotated[
        str | None, typer.Option(help="soft (the teacher's probabilities; default) or hard (its predicted class).")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Temperature of soft targets; default: 3.")] = None,
    force: Force = False,
) -> None:
    """Train a small model with knowledge distillation; resumes automatically."""
    processes.quieten()
    from baselines.errors import InputError
    from compress import config as config_
    from compress import sidecar
    from compress.evaluate.options import describe_command
    from compress.sidecar import Origin
    from compress.training.build import STUDENT, train_student
    from compress.training.teacher import adopt
    from compress.variant import Variant, make_method

    out = training.out
    student = out / f"best_{STUDENT}_model.pth"
    if teacher.resolve() == student.resolve():
        raise InputError(f"{teacher} would be replaced by its own student; give another --out")
    options = {"kind": kind, "temperature": temperature, "student": training.config, "data": training.data}
    options["seed"] = training.seed
    origin = Origin(source=teacher, command=describe_command(sys.argv), options=options, force=force)
    if not sidecar.check_target(student, origin) and not _is_kept(student):
        raise sidecar.refuse(student)
    console = terminal.make_console()
    settings = training.apply(config_.read(training.config, training.data, training.seed))
    given = {name: value for name, value in {"kind": kind, "temperature": temperature}.items() if value is not None}
    with processes.training(training, console.print) as team:
        file = team.world.share(lambda: adopt(teacher, source.hints, settings, out, console.print))
        method = make_method("distill", {**settings.methods.get("distill", {}), **given, "teacher": str(file)})
        tables = {**settings.methods, "distill": method.model_dump()}
        run = team.open_run(settings.model_copy(update={"methods": tables}), Variant(()))
        console.print(f"vit: {train_student(run, method).path}, copied to {student}")
        if team.world.rank == 0:
            sidecar.write_files({student: student.read_bytes()}, student, origin)


def _is_kept(student: Path) -> bool:
    """Whether the run directory holds the same file once more, so that nothing is lost."""
    same = student.parent.glob(f"models/*/{student.name}")
    return any(each.read_bytes() == student.read_bytes() for each in same)
