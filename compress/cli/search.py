"""`compress search`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from baselines.errors import InputError
from compress.cli import processes, terminal
from compress.cli.groups import DataOptions, MachineOptions, ViTOptions, with_groups
from compress.cli.json_output import with_json
from compress.cli.options import CheckpointFile, Force
from compress.outcome import NOTHING_YET, Outcome

WISHES = "Wishes (one or more; all hold)"


@dataclass(frozen=True)
class WishOptions:
    """What the file is to be."""

    max_drop: Annotated[
        str | None, typer.Option(help="At most so many points of top-1 lost: the fastest.", rich_help_panel=WISHES)
    ] = None
    latency: Annotated[
        str | None, typer.Option(help="At most so long for a batch, such as 5ms.", rich_help_panel=WISHES)
    ] = None
    speedup: Annotated[
        str | None, typer.Option(help="At least so many times as fast as PyTorch fp32.", rich_help_panel=WISHES)
    ] = None
    file: Annotated[
        str | None, typer.Option("--file", help="A file of at most such a size, such as 8MB.", rich_help_panel=WISHES)
    ] = None
    macs: Annotated[
        str | None, typer.Option(help="At most such a share of the MACs, such as 0.5.", rich_help_panel=WISHES)
    ] = None


@dataclass(frozen=True)
class SearchOptions:
    """How long and among what."""

    hours: Annotated[float | None, typer.Option(min=0, help="Time for all of it; default: 1 hour.")] = None
    minutes: Annotated[float | None, typer.Option(min=0, help="The same in minutes.")] = None
    trials: Annotated[int | None, typer.Option(min=1, help="Trials at most, those of earlier runs included.")] = None
    methods: Annotated[
        str | None, typer.Option(help="Comma-separated methods to try; default: all that can be searched.")
    ] = None
    runtime: Annotated[
        str | None,
        typer.Option(help="Comma-separated engines to try; default: all that do not compile for minutes."),
    ] = None
    epochs: Annotated[int, typer.Option(min=0, help="Fine-tuning epochs for what could still win; 0: none.")] = 0
    held_out: Annotated[int, typer.Option(min=1, help="Training images that choose, at most.")] = 2000
    batch_size: Annotated[int, typer.Option(min=1, help="Batch size used for timing.")] = 1
    seconds: Annotated[float, typer.Option(min=0.1, help="Maximum duration of a timing run.")] = 10
    storage: Annotated[
        str | None,
        typer.Option(
            help="Database of trials to share between processes: a .db file, a .log file or a URL. "
            "[default: OUT/search.log]"
        ),
    ] = None
    out: Annotated[Path | None, typer.Option("--out", help="Output folder; default: CHECKPOINT-search.")] = None
    force: Force = False


@with_json
@with_groups
def search(
    checkpoint: CheckpointFile,
    data: DataOptions,
    machine: MachineOptions,
    source: ViTOptions,
    wishes: WishOptions,
    asked: SearchOptions,
) -> Outcome:
    """Search methods, numbers and engines for the file that meets your wishes best on this machine."""
    processes.check_alone("compress search")
    terminal.remains = NOTHING_YET
    from compress.verbs.search import Request
    from compress.verbs.search import search as search_
    from compress.verbs.search.wishes import parse_wishes

    if asked.hours is not None and asked.minutes is not None:
        raise InputError("--hours and --minutes both say how long; remove one of them")
    budget_s = 60 * asked.minutes if asked.minutes is not None else 3600 * (1 if asked.hours is None else asked.hours)
    named = {"latency_s": wishes.latency, "file_bytes": wishes.file}
    others = {name: getattr(wishes, name) for name in ("max_drop", "speedup", "macs")}
    options = {name: value for name, value in vars(asked).items() if name not in ("hours", "minutes", "runtime")}
    request = Request(
        path=checkpoint,
        wishes=parse_wishes({**named, **others}),
        **vars(data),
        **{**options, "methods": terminal.split_names(asked.methods)},
        budget_s=budget_s,
        runtimes=terminal.split_names(asked.runtime),
        threads=machine.processors,
        device=terminal.choose_device(machine.device),
        hints=source.hints,
    )
    return search_(request, terminal.make_console())
