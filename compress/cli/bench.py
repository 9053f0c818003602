"""`compress bench`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from compress.cli import processes, terminal
from compress.cli.groups import DataOptions, SourceOptions, with_groups
from compress.cli.json_output import with_json
from compress.cli.options import DryRun, Init, TensorBoard, Threads
from compress.outcome import Outcome


@dataclass(frozen=True)
class BenchOptions:
    """What is compressed and how it is measured."""

    variants: Annotated[str | None, typer.Option(help="Comma-separated variants, such as vit,avit,avit_int8.")] = None
    device: Annotated[str, typer.Option(help="cpu, cuda, both (cpu,cuda) or auto.")] = "auto"
    runtime: Annotated[
        str, typer.Option(help="Comma-separated: torch, torch.compile, onnxruntime, openvino, nncf; or auto.")
    ] = "auto"
    batch_size: Annotated[str, typer.Option(help="Comma-separated batch sizes to time.")] = "1,32"
    threads: Threads = None
    checkpoint: Annotated[Path | None, typer.Option(help="Baseline to compress; default: train one.")] = None
    epochs: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Fine-tuning epochs of a variant. Default: from the settings; with --checkpoint and no --config, none "
            "for methods that need none.",
        ),
    ] = None
    init: Init = None
    out: Annotated[Path | None, typer.Option(help="Output directory. [default: runs]")] = None
    plain: Annotated[
        bool, typer.Option(help="Also benchmark baselines: bf16, torch.compile and a narrower ViT of equal MACs.")
    ] = True
    precision: Annotated[str, typer.Option(help="Stop timing once speed-ups are known to this precision.")] = "3%"
    seconds: Annotated[float, typer.Option(min=0, help="Maximum timing duration per device and batch size.")] = 20.0
    break_even: Annotated[
        bool, typer.Option("--break-even", help="Find the smallest batch size at which each variant wins, up to 256.")
    ] = False
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Smoke test in about a minute: half the blocks, short training, no baselines."),
    ] = False
    remeasure: Annotated[bool, typer.Option(help="Repeat measurements that already exist.")] = False
    tensorboard: TensorBoard = False
    dry_run: DryRun = False


@with_json
@with_groups
def bench(data: DataOptions, source: SourceOptions, asked: BenchOptions) -> Outcome:
    """Benchmark compressed variants of a model and write a report."""
    processes.check_alone("compress bench")
    from compress import config
    from compress.evaluate import Options
    from compress.tables import show_rows
    from compress.verbs import bench as verb

    known, plain, seconds = source.hints, asked.plain, asked.seconds
    settings = verb.read_settings(data.config, data.data, data.seed, asked.init, asked.checkpoint, known)
    settings = data.apply(settings)
    if asked.variants is not None:
        settings = settings.model_copy(update={"variants": tuple(terminal.names(asked.variants, "--variants"))})
    if asked.epochs is not None:
        settings = config.override_training(settings, "finetune", {"epochs": asked.epochs})
    notes: tuple[str, ...] = ()
    if asked.quick:
        settings, notes, plain, seconds = *config.make_quick(settings), False, min(seconds, 4.0)
    # a look goes into a folder of its own, so that it is never taken for the figures
    folder = asked.out or Path("runs_quick" if asked.quick else "runs")
    options = Options(
        verb="bench",
        devices=terminal.devices(asked.device),
        batch_sizes=terminal.numbers(asked.batch_size, "--batch-size"),
        threads=asked.threads or processes.processors(),
        precision=terminal.share(asked.precision, "--precision"),
        seconds=seconds,
        break_even=asked.break_even,
        remeasure=asked.remeasure,
        notes=notes,
    )
    request = verb.Request(
        config=settings,
        out=folder,
        options=options,
        runtimes=() if asked.runtime == "auto" else tuple(terminal.names(asked.runtime, "--runtime")),
        checkpoint=asked.checkpoint,
        tunes=asked.checkpoint is None or data.config is not None or asked.epochs is not None,
        plain=plain,
        tensorboard=asked.tensorboard,
        hints=known,
    )
    console = terminal.make_console()
    if asked.dry_run:
        from compress.verbs.plan import plan_bench

        return plan_bench(request, console)
    rows = verb.bench(request, console)
    show_rows(console, rows)
    console.print(f"wrote {folder / 'report.md'}, report.html, rows.jsonl, rows.csv, tables and plots")
    failed = any(row.failed for row in rows)
    return Outcome(rows=rows, written=[folder / name for name in verb.FILES], exit_code=int(failed))
