"""`compress prune`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from compress.cli import processes, terminal
from compress.cli.groups import DataOptions, MachineOptions, ViTOptions, with_groups
from compress.cli.json_output import with_json
from compress.cli.options import CheckpointFile, Resume
from compress.outcome import Outcome

TargetMacs = Annotated[
    str | None, typer.Option(help="Share of the dense model's MACs; several with commas give a curve.")
]
Epochs = Annotated[int, typer.Option(min=0, help="Of fine-tuning, with the checkpoint as teacher; 0: none.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Batch size that is timed.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="Longest latency measurement.")]
Folder = Annotated[
    Path | None, typer.Option("--out", help="Folder of what is written; default: beside the checkpoint.")
]


@with_json
@with_groups
def prune(
    checkpoint: CheckpointFile,
    data: DataOptions,
    machine: MachineOptions,
    source: ViTOptions,
    method: Annotated[str, typer.Option(help="topk, tome or dynamicvit.")] = "topk",
    keep: Annotated[
        str | None,
        typer.Option(help="Share of the patches that stay at each place (topk, dynamicvit); several give a curve."),
    ] = None,
    r: Annotated[
        str | None, typer.Option("--r", help="Tokens that merge in every block (tome); several give a curve.")
    ] = None,
    target_macs: TargetMacs = None,
    epochs: Epochs = 0,
    batch_size: BatchSize = 1,
    seconds: Seconds = 5,
    out: Folder = None,
    resume: Resume = True,
) -> Outcome:
    """Remove or merge tokens of a trained model, with or without training, and show what it costs and saves."""
    amounts = {"keep": keep, "r": r, "target_macs": target_macs}
    return reduce_tokens(
        "prune", checkpoint, method, amounts, data, machine, source, epochs, batch_size, seconds, out, resume
    )


def reduce_tokens(
    verb: str,
    checkpoint: Path,
    method: str,
    amounts: dict[str, str | None],
    data: DataOptions,
    machine: MachineOptions,
    source: ViTOptions,
    *rest: object,
) -> Outcome:
    """What `prune` and `halt` do; `rest`: epochs, batch size, seconds, out and resume."""
    processes.check_alone(f"compress {verb}")
    from compress.verbs.prune import Request, prune

    names = ("epochs", "batch_size", "seconds", "out", "resume")
    further: dict[str, Any] = dict(zip(names, rest, strict=True))
    request = Request(
        path=checkpoint,
        verb=verb,
        method=method,
        amounts=amounts,
        **vars(data),
        device=machine.device,
        threads=machine.processors,
        hints=source.hints,
        **further,
    )
    return prune(request, terminal.make_console())
