"""`compress bench`."""

from pathlib import Path
from typing import Annotated

import typer

from compress.cli import processes, terminal
from compress.cli.options import Config, DataName, Ema, Heads, ImageSize, Model, Normalise, Seed, Threads, hints


def bench(
    variants: Annotated[str | None, typer.Option(help="Comma-separated, as in vit,avit,avit_int8.")] = None,
    config: Config = None,
    data: DataName = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cpu,cuda, or auto: cpu, and cuda where there is one.")
    ] = "auto",
    runtime: Annotated[
        str, typer.Option(help="torch, torch.compile, onnxruntime, openvino, nncf; several with commas, or auto.")
    ] = "auto",
    batch_size: Annotated[str, typer.Option(help="Comma-separated batch sizes to time.")] = "1,32",
    threads: Threads = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Baseline to compress, instead of training one.")] = None,
    model: Model = None,
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint that the baseline's training begins with: a baseline or pretrained.")
    ] = None,
    seed: Seed = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory: models, artifacts, rows, report. [default: runs]")
    ] = None,
    plain: Annotated[
        bool, typer.Option(help="Add what has to be beaten: bf16, torch.compile, a narrower ViT of equal MACs.")
    ] = True,
    precision: Annotated[str, typer.Option(help="Stop timing when speed-ups are known to within this share.")] = "3%",
    seconds: Annotated[
        float, typer.Option(min=0, help="Longest latency measurement for each device and batch size.")
    ] = 20.0,
    break_even: Annotated[
        bool, typer.Option("--break-even", help="Find the smallest batch at which each variant wins, up to 256.")
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="A look in under a minute: half the blocks, short training, no plain alternatives."
        ),
    ] = False,
    remeasure: Annotated[bool, typer.Option(help="Measure again what was measured before.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write each epoch as TensorBoard reads it: OUT/tensorboard.")
    ] = False,
    heads: Heads = None,
    image_size: ImageSize = None,
    normalise: Normalise = None,
    ema: Ema = True,
) -> None:
    """Train or load the baseline, compress it, measure all variants, write the comparison."""
    processes.check_alone("compress bench")
    from baselines.errors import InputError
    from compress import config as config_
    from compress.checkpoints import checkpoint as checkpoint_
    from compress.evaluate.rows import Request
    from compress.measure.environment import available_cpus
    from compress.verbs import bench as bench_

    console, known = terminal.make_console(), hints(heads, image_size, normalise, ema, model)
    if checkpoint is not None and data is None and config is None:
        data = checkpoint_.load(checkpoint, known).dataset or None
        if data is None:
            raise InputError(f"{checkpoint} does not say which images it knows; give some with --data folder:PATH")
    settings = config_.read(config, data, seed, init, known)
    if variants is not None:
        settings = settings.model_copy(update={"variants": tuple(terminal.names(variants, "--variants"))})
    notes: tuple[str, ...] = ()
    if quick:
        settings, notes, plain, seconds = *config_.quick(settings), False, min(seconds, 4.0)
    folder = out or Path("runs_quick" if quick else "runs")  # apart, so that a look is never taken for the figures
    request = Request(
        config=settings,
        out=folder,
        devices=terminal.devices(device),
        runtimes=() if runtime == "auto" else tuple(terminal.names(runtime, "--runtime")),
        batch_sizes=terminal.numbers(batch_size, "--batch-size"),
        threads=threads or available_cpus(),
        checkpoint=checkpoint,
        plain=plain,
        precision=terminal.share(precision, "--precision"),
        seconds=seconds,
        break_even=break_even,
        remeasure=remeasure,
        tensorboard=tensorboard,
        hints=known,
        notes=notes,
    )
    rows = bench_.bench(request, console)
    import reports

    console.print(reports.rich_table(rows))
    console.print(f"wrote {folder / 'report.md'}, report.html, rows.jsonl, rows.csv, tables and plots")
    if any(row.failed for row in rows):
        raise typer.Exit(1)
