"""The command line. Heavy imports wait until a command runs, so that `--help` is quick."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from compress import terminal

app = typer.Typer(
    help="Vision Transformers made smaller and faster, every variant measured for real on this machine.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

Config = Annotated[Path | None, typer.Option("--config", help="TOML file of settings; see configs/.")]
DataName = Annotated[str | None, typer.Option("--data", help="digits, cifar10, cifar100 or folder:PATH.")]
Out = Annotated[Path, typer.Option("--out", help="Run directory: models, artifacts, rows, report.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Default: all processors of this process.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Of training; default 0.")]
CheckpointFile = Annotated[Path, typer.Argument(help="A checkpoint, such as best_vit_model.pth.")]


@app.command()
def bench(
    variants: Annotated[str | None, typer.Option(help="Comma-separated, as in vit,avit,avit_int8.")] = None,
    config: Config = None,
    data: DataName = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cpu,cuda, or auto: cpu, and cuda where there is one.")
    ] = "auto",
    runtime: Annotated[
        str, typer.Option(help="torch, torch.compile, onnxruntime, openvino, several with commas, or auto.")
    ] = "auto",
    batch_size: Annotated[str, typer.Option(help="Comma-separated batch sizes to time.")] = "1,32",
    threads: Threads = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Baseline to compress, instead of training one.")] = None,
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
) -> None:
    """Train or load the baseline, compress it, measure all variants, write the comparison."""
    from compress import bench as bench_
    from compress import checkpoint as checkpoint_
    from compress import config as config_
    from compress.measure.environment import available_cpus
    from compress.rows import Request

    console = terminal.make_console()
    if checkpoint is not None and data is None and config is None:
        data = checkpoint_.load(checkpoint).dataset
    settings = config_.read(config, data, seed)
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
        notes=notes,
    )
    rows = bench_.bench(request, console)
    import reports

    console.print(reports.rich_table(rows))
    console.print(f"wrote {folder / 'report.md'}, report.html, rows.jsonl, rows.csv, tables and plots")
    if any(row.failed for row in rows):
        raise typer.Exit(1)


@app.command()
def train(
    config: Config = None,
    data: DataName = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    variant: Annotated[str, typer.Option(help="What to train; its baseline is trained first.")] = "vit",
    threads: Threads = None,
    seed: Seed = None,
    out: Out = Path("runs"),
) -> None:
    """Train the baseline, or a variant of it; goes on where it was interrupted."""
    import torch

    from baselines import device as devices
    from compress import config as config_
    from compress import files
    from compress import variant as variants
    from compress.measure.environment import available_cpus, settle_allocator
    from compress.workshop import Workshop

    console = terminal.make_console()
    settings = config_.read(config, data, seed)
    wanted = variants.parse(variant, settings.methods)
    chosen = devices.resolve(device)
    files.writable_folder(out)
    torch.set_num_threads(threads or available_cpus())
    settle_allocator()
    workshop = Workshop(settings, out, chosen, console.print)
    console.print(f"{wanted.name}: {workshop.make(wanted).path}")


@app.command()
def quantize(
    checkpoint: CheckpointFile,
    data: DataName = None,
    calibration_images: Annotated[int, typer.Option(min=1, help="Training images that set the ranges.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Of the latency shown.")] = 1,
    threads: Threads = None,
) -> None:
    """Write the int8 model beside a checkpoint and compare both: accuracy, size, latency."""
    from compress.measure.environment import available_cpus
    from compress.quantize import quantize as quantize_

    quantize_(
        checkpoint,
        data_name=data,
        calibration_images=calibration_images,
        batch_size=batch_size,
        threads=threads or available_cpus(),
        console=terminal.make_console(),
    )


@app.command()
def export(
    checkpoint: CheckpointFile,
    data: DataName = None,
    out: Annotated[Path | None, typer.Option(help="The ONNX file; default: beside the checkpoint.")] = None,
) -> None:
    """Write a checkpoint as ONNX, checked against it on real images."""
    from compress import variant
    from compress.export import export_onnx
    from compress.workshop import check_classes, load_data, parity_images

    model, which, content = variant.restore(checkpoint)
    model = model if content.converted else variant.convert(model, which.methods)
    images = load_data(data or content.dataset, content.config.image_size, content.config.channels, checkpoint.parent)
    check_classes(checkpoint, content.classes, images)
    target = out or checkpoint.with_suffix(".onnx")
    parity = export_onnx(model, target, parity_images(images.normalised(content.mean, content.std)), content)
    terminal.make_console().print(
        f"wrote {target} ({target.stat().st_size / 1e6:.2f} MB); against {checkpoint.name} on {parity.n_images} images "
        f"in batches of 1, 2 and 7: same class on {parity.agreement:.1%}, "
        f"largest difference {parity.max_difference:.2g} of the largest logit"
    )


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories with rows.jsonl in them; the first is compared.")],
    out: Annotated[Path | None, typer.Option(help="Where a comparison goes; default: into the last run.")] = None,
    fail_if_slower: Annotated[
        str | None, typer.Option(help="Exit with 1 if the last run is slower than the first by more than this, as 5%.")
    ] = None,
) -> None:
    """Make tables, plots and pages again from the rows of a run; compare several runs, side by side."""
    import reports
    from baselines.errors import InputError
    from compress.bench import read_runs, write_comparison, write_report

    console = terminal.make_console()
    limit = terminal.share(fail_if_slower, "--fail-if-slower") if fail_if_slower else None
    if len(runs) == 1:
        if limit is not None:
            raise InputError("--fail-if-slower compares runs; give the run to compare with first, then this one")
        console.print(reports.rich_table(write_report(runs[0])))
        console.print(f"wrote {runs[0] / 'report.md'}, report.html, tables, plots and pictures")
        return
    found = read_runs(runs)
    console.print(reports.rich_comparison(found))
    console.print(f"wrote {write_comparison(found, out or runs[-1])}")
    faults = reports.slower(found, limit) if limit is not None else []
    for fault in faults:
        console.print(f"too slow: {fault}")
    if faults:
        raise typer.Exit(1)


@app.command()
def doctor(
    artifact: Annotated[Path | None, typer.Argument(help="An .onnx file or a checkpoint to examine.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Of the runs that are timed.")] = 1,
    threads: Threads = None,
) -> None:
    """Say what this machine can do, what works on it, and why a file is as fast as it is."""
    from compress.doctor import doctor as doctor_

    raise typer.Exit(doctor_(artifact, threads, terminal.make_console(), batch_size))


def main(argv: list[str] | None = None) -> int:
    """Runs a command line.

    Returns:
        0 when all went well, 1 when a variant failed, an export was not exact or a run is too slow, 2 for what the
        person can put right, 130 after Ctrl-C.
    """
    from compress.measure.environment import share_processors

    share_processors()
    args = sys.argv[1:] if argv is None else argv
    return terminal.guarded(lambda: app(args=args or ["--help"], prog_name="compress", standalone_mode=False))


if __name__ == "__main__":
    sys.exit(main())
