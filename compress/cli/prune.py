"""`compress prune`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from compress.cli import processes, terminal
from compress.cli.groups import DataOptions, MachineOptions, ViTOptions, with_groups
from compress.cli.json_output import with_json
from compress.cli.options import CheckpointFile, Force, Resume
from compress.outcome import Outcome

TargetMacs = Annotated[
    str | None, typer.Option(help="Fraction of the dense model's MACs; several with commas give a curve.")
]


@dataclass(frozen=True)
class ReductionOptions:
    """How a smaller model is made and measured."""

    epochs: Annotated[int, typer.Option(min=0, help="Fine-tuning epochs, with the checkpoint as teacher; 0: none.")] = 0
    batch_size: Annotated[int, typer.Option(min=1, help="Batch size used for timing.")] = 1
    seconds: Annotated[float, typer.Option(min=0.1, help="Maximum duration of a timing run.")] = 5
    out: Annotated[
        Path | None, typer.Option("--out", help="Output folder or .pth file; default: beside the checkpoint.")
    ] = None
    resume: Resume = True
    force: Force = False


DEFAULTS = ReductionOptions()


@with_json
@with_groups
def prune(
    checkpoint: CheckpointFile,
    data: DataOptions,
    machine: MachineOptions,
    source: ViTOptions,
    method: Annotated[str, typer.Option(help="topk, tome, dynamicvit (tokens) or slim (structures).")] = "topk",
    keep: Annotated[
        str | None,
        typer.Option(
            help="Fraction to keep: patches at each stage (topk, dynamicvit), weights of the blocks (slim); "
            "several give a curve."
        ),
    ] = None,
    r: Annotated[
        str | None, typer.Option("--r", help="Tokens to merge per block (tome); several give a curve.")
    ] = None,
    target_macs: TargetMacs = None,
    learned: Annotated[
        bool,
        typer.Option(
            "--learned",
            help="Search, on training images, how many tokens to drop in which block (topk, tome); no training.",
        ),
    ] = False,
    asked: ReductionOptions = DEFAULTS,
) -> Outcome:
    """Prune tokens or structures of a trained model, with or without fine-tuning."""
    amounts = {"keep": keep, "r": r, "target_macs": target_macs}
    return reduce_tokens("prune", checkpoint, method, amounts, data, machine, source, asked, learned=learned)


def reduce_tokens(
    verb: str,
    checkpoint: Path,
    method: str,
    amounts: dict[str, str | None],
    data: DataOptions,
    machine: MachineOptions,
    source: ViTOptions,
    asked: ReductionOptions,
    *,
    learned: bool = False,
) -> Outcome:
    """What `prune` and `halt` do."""
    processes.check_alone(f"compress {verb}")
    from compress.verbs.prune import Request, prune

    request = Request(
        path=checkpoint,
        verb=verb,
        method=method,
        amounts=amounts,
        learned=learned,
        **vars(data),
        **vars(asked),
        device=machine.device,
        threads=machine.processors,
        hints=source.hints,
    )
    return prune(request, terminal.make_console())
