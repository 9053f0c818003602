"""`compress quantize`."""

from typing import Annotated

import typer

from compress.cli import terminal
from compress.cli.options import (
    CheckpointFile,
    Config,
    DataName,
    Ema,
    Heads,
    ImageSize,
    Model,
    Normalise,
    Resume,
    Seed,
    Threads,
    hints,
)


def quantize(
    checkpoint: CheckpointFile,
    mode: Annotated[
        str | None, typer.Option(help="static, dynamic or qat; default: static and dynamic, both measured.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="Engines to try, with commas; default: all that multiply integers here.")
    ] = None,
    data: DataName = None,
    calibration_images: Annotated[int, typer.Option(min=1, help="Training images that set the ranges.")] = 256,
    test_images: Annotated[int | None, typer.Option(min=1, help="That are scored; default: all.")] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Points of top-1 that may be lost; as many layers stay float as it takes.")
    ] = None,
    skip: Annotated[
        str | None, typer.Option(help="Layers that stay float, with commas: blocks.0.mlp.fc2, or fc2; * fits anything.")
    ] = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Only rank the layers by the harm they do.")
    ] = False,
    calibration_study: Annotated[
        bool, typer.Option("--calibration-study", help="Only show what number and choice of images change.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Of --mode qat.")] = 1,
    config: Config = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Of the latency shown.")] = 1,
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of latency measurement, at most.")] = 20,
    seed: Seed = None,
    remeasure: Annotated[
        bool, typer.Option("--remeasure", help="Try all ways again, also where this machine's fastest is known.")
    ] = False,
    resume: Resume = True,
    model: Model = None,
    heads: Heads = None,
    image_size: ImageSize = None,
    normalise: Normalise = None,
    ema: Ema = True,
) -> None:
    """Make the fastest integer file of a model, and compare all ways to one: accuracy, size, latency."""
    from compress.measure.environment import available_cpus
    from compress.verbs.quantize import Request
    from compress.verbs.quantize import quantize as quantize_

    request = Request(
        path=checkpoint,
        mode=mode,
        runtimes=_parts(runtime),
        data=data,
        config=config,
        calibration_images=calibration_images,
        test_images=test_images,
        max_drop=max_drop,
        skip=_parts(skip),
        epochs=epochs,
        batch_size=batch_size,
        threads=threads or available_cpus(),
        seconds=seconds,
        seed=seed,
        remeasure=remeasure,
        sensitivity=sensitivity,
        study=calibration_study,
        resume=resume,
        hints=hints(heads, image_size, normalise, ema, model),
    )
    raise typer.Exit(quantize_(request, terminal.make_console()))


def _parts(text: str | None) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(",")))) if text else ()
