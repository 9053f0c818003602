"""The command line. Heavy imports wait until a command runs, so that `--help` is quick."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

STOPPED = 130  # exit code after Ctrl-C

OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")  # as torch says it

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
    runtime: Annotated[str, typer.Option(help="torch, onnxruntime, both with a comma, or auto.")] = "auto",
    batch_size: Annotated[str, typer.Option(help="Comma-separated batch sizes to time.")] = "1,32",
    threads: Threads = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Baseline to compress, instead of training one.")] = None,
    seed: Seed = None,
    out: Out = Path("runs"),
    seconds: Annotated[float, typer.Option(min=0, help="Latency measurement for each device and batch size.")] = 8.0,
    remeasure: Annotated[bool, typer.Option(help="Measure again what was measured before.")] = False,
) -> None:
    """Train or load the baseline, compress it, measure all variants, write the comparison."""
    from compress import bench as bench_
    from compress import checkpoint as checkpoint_
    from compress import config as config_
    from compress.measure.environment import available_cpus
    from compress.rows import Request

    console = _console()
    if checkpoint is not None and data is None and config is None:
        data = checkpoint_.load(checkpoint).dataset
    settings = config_.read(config, data, seed)
    if variants is not None:
        settings = settings.model_copy(update={"variants": tuple(_names(variants, "--variants"))})
    request = Request(
        config=settings,
        out=out,
        devices=_devices(device),
        runtimes=() if runtime == "auto" else tuple(_names(runtime, "--runtime")),
        batch_sizes=_numbers(batch_size, "--batch-size"),
        threads=threads or available_cpus(),
        checkpoint=checkpoint,
        seconds=seconds,
        remeasure=remeasure,
    )
    rows = bench_.bench(request, console)
    import reports

    console.print(reports.rich_table(rows))
    console.print(f"wrote {out / 'report.md'}, rows.jsonl, rows.csv, pareto.png and pareto.svg")
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

    console = _console()
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
        console=_console(),
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
    _console().print(
        f"wrote {target} ({target.stat().st_size / 1e6:.2f} MB); against {checkpoint.name} on {parity.n_images} images "
        f"in batches of 1, 2 and 7: same class on {parity.agreement:.1%}, "
        f"largest difference {parity.max_difference:.2g} of the largest logit"
    )


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Run directory with rows.jsonl in it.")]) -> None:
    """Make report.md, rows.csv and the plots again from the rows of a run."""
    import reports
    from compress.bench import write_report

    console = _console()
    console.print(reports.rich_table(write_report(run)))
    console.print(f"wrote {run / 'report.md'}")


def main(argv: list[str] | None = None) -> int:
    """Runs a command line.

    Returns:
        0 when all went well, 1 when a variant failed or an export was not exact, 2 for what the person can put right,
        130 after Ctrl-C.
    """
    from baselines.errors import InputError
    from compress.measure.environment import share_processors
    from reports.row import RowError

    share_processors()
    args = sys.argv[1:] if argv is None else argv
    try:
        result = app(args=args or ["--help"], prog_name="compress", standalone_mode=False)
    except (InputError, RowError, FloatingPointError) as error:
        return _refuse(str(error))
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        result = STOPPED
    except Exception as error:
        usage = getattr(error, "format_message", None)  # of click, or of the click that newer versions of typer carry
        if usage is not None:
            command = getattr(getattr(error, "ctx", None), "command_path", "compress")
            return _refuse(f"{usage().rstrip('.')}; see {command} --help")
        from compress.export import ParityError

        if isinstance(error, ParityError):
            return _refuse(str(error), 1)
        if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
            return _refuse("there is not enough memory for this; make [model] or --batch-size smaller")
        raise
    if result == STOPPED:  # newer versions of typer turn Ctrl-C into this themselves
        Console(stderr=True).print("stopped; run the same command again to go on")
    return result if isinstance(result, int) else 0


def _refuse(message: str, code: int = 2) -> int:
    from reports.text import clean

    Console(stderr=True, soft_wrap=True, highlight=False).print("error:", clean(message), markup=False)
    return code


def _console() -> Console:
    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 240  # tables in a file or a pipe are not cut
    return console


def _names(text: str, option: str) -> list[str]:
    from baselines.errors import InputError

    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise InputError(f"{option} {text!r} names nothing; give names with commas between them")
    return names


def _numbers(text: str, option: str) -> tuple[int, ...]:
    from baselines.errors import InputError

    parts = _names(text, option)
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"{option} {text!r} is not a list of whole numbers above 0, such as 1,32")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _devices(text: str) -> tuple[str, ...]:
    from baselines import device as devices

    if text == "auto":
        return tuple(dict.fromkeys(("cpu", devices.resolve("auto").type)))
    names: list[Any] = [devices.resolve(name).type for name in _names(text, "--device")]
    return tuple(dict.fromkeys(names))


if __name__ == "__main__":
    sys.exit(main())
