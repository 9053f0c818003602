"""`compress train`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from compress.cli import processes, terminal
from compress.cli.groups import TrainingOptions, ViTOptions, with_groups
from compress.cli.options import Model


@with_groups
def train(
    training: TrainingOptions,
    source: ViTOptions,
    variant: Annotated[str, typer.Option(help="Variant to train; its baseline is trained first.")] = "vit",
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint to start training from (a baseline or a pretrained model).")
    ] = None,
    code: Model = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs; default: from the settings.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate; default: from the settings.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Training batch size; default: from the settings.")
    ] = None,
) -> None:
    """Train the baseline or a variant; resumes automatically."""
    processes.quieten()
    from baselines.errors import InputError
    from compress import config as config_
    from compress import variant as variants
    from compress.checkpoints import user_models
    from compress.training.build import make_variant
    from compress.training.finetuning import describe_accuracy

    console, hints, base = terminal.make_console(), source.hints, variants.BASELINE
    if code is not None:
        if init is not None:
            raise InputError(f"--init {init} and --model {code} both set the initial model; give only one")
        hints = dataclasses.replace(hints, model=user_models.resolve_spec(code), normalize="data")
        base = user_models.get_base_name(code)
    settings = training.apply(config_.read(training.config, training.data, training.seed, init, hints))
    if settings.init is None and (said := source.preprocessing):
        raise InputError(
            f"{' and '.join(said)}: only valid with --init FILE; add it, or remove {'them' if said[1:] else 'it'}"
        )
    given = {"epochs": epochs, "lr": lr, "batch_size": batch_size}
    wanted = variants.parse(base if variant == variants.BASELINE else variant, settings.methods, base)
    table = "finetune" if any(method.tuned and not method.from_scratch for method in wanted.methods) else "train"
    settings = config_.override_training(settings, table, {name: x for name, x in given.items() if x is not None})
    with processes.training(training, console.print) as team:
        run = dataclasses.replace(team.open_run(settings, wanted, hints), start_learns=code is not None)
        built = make_variant(run, wanted)
        console.print(f"{wanted.name}: {built.path}")
        if wanted.dtype == "fp32":
            model = run.world.share(lambda: built.restored)[0]  # which only one process has written
            console.print(describe_accuracy(model, run.data, run.device, run.world))
