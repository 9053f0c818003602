"""What stays of a search: the winner's artifact and checkpoint, and settings that make it again without a search."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from compress import files, runtimes, settings, sidecar
from compress.config import BenchConfig
from compress.evaluate.options import describe_command
from compress.outcome import Outcome
from compress.runtimes.graph_files import relabel
from compress.sidecar import Origin
from compress.tables import show_rows
from compress.variant import BASELINE
from compress.verbs.search import telling
from compress.verbs.search.final import Final
from compress.verbs.search.request import Request

CHECKPOINT = ".pth"


def make_origin(request: Request) -> Origin:
    """What makes the files; those of one search replace those of another, whatever its wishes."""
    origin = Origin.of(request, request.path, describe_command(sys.argv))
    return replace(origin, options={name: origin.options[name] for name in ("batch_size", "threads", "device")})


def check_targets(request: Request, n_images: int, console: Console) -> None:
    """Says before the work which files it may not be able to replace.

    Raises:
        InputError: one is of other weights, or was scored on more images.
    """
    origin = make_origin(request)
    for suffix in dict.fromkeys([CHECKPOINT, *(each.suffix for each in runtimes.describe_all())]):
        target = request.name_target(suffix)
        if not sidecar.check_target(target, origin, n_images):
            console.print(f"{target}: nothing says what made it; it is replaced by the same alone, or with --force")


def keep(request: Request, known: BenchConfig, found: Final, console: Console) -> Outcome:
    """Writes the winner's files, says what they are, and gives the outcome of the search."""
    row, runtime = found.rows[-1], found.candidate.runtime
    origin = make_origin(request)
    written = []
    with files.temporary_folder() as folder:
        for source, target in _list_targets(request, found).items():
            made = folder / target.name
            if runtimes.is_checkpoint(source):
                made.write_bytes(source.read_bytes())
            else:
                relabel(source, made, {"runtime": json.dumps(runtime.name)})
            contents = {target.with_name(each.name): each.read_bytes() for each in reversed(runtimes.list_files(made))}
            sidecar.write_files(contents, target, origin, row)
            written += contents
    written.append(write_settings(request, known, found))
    show_rows(console, found.rows)
    console.print(row.chosen)
    neighbours = telling.compare_neighbours(found.winner, found.neighbours)
    for line in neighbours:
        console.print(f"beside it, on held-out images: {line}")
    for name, short in found.missed.items():
        console.print(telling.explain_missed(name, short, row))
    console.print(f"wrote {', '.join(map(str, written))}; every trial: {request.folder / 'report.html'}")
    return Outcome(
        rows=found.rows,
        written=[written[-1], request.folder / "rows.jsonl", *written[:-1]],
        facts={"neighbours": neighbours, "missed": [*found.missed]},
        exit_code=1 if found.missed else 0,
    )


def write_settings(request: Request, known: BenchConfig, found: Final) -> Path:
    """Settings with which `compress bench` makes the winner again, without a search."""
    which = found.built.variant
    methods = {each.name: each.model_dump(mode="json", exclude_none=True) for each in which.methods}
    told = known.model_copy(update={"variants": (BASELINE, which.name), "methods": {**known.methods, **methods}})
    path = request.folder / "best.toml"
    command = f"compress bench --checkpoint {request.path} --config {path} --runtime {found.candidate.runtime.name}"
    files.write(path, f"# Made by compress search. The same without a search:\n# {command}\n{settings.to_toml(told)}")
    return path


def _list_targets(request: Request, found: Final) -> dict[Path, Path]:
    """What is copied where: the model as every verb takes it, and the artifact, which is last."""
    artifact = found.candidate.build()
    beside = ".model" if runtimes.is_checkpoint(artifact) else ""
    model = request.name_target(f"{beside}{CHECKPOINT}")
    return {found.built.path: model, artifact: request.name_target(found.candidate.runtime.suffix)}
