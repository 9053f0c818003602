"""`compress pretrain`."""

from typing import Annotated

import typer

from compress.cli import processes, terminal
from compress.cli.groups import TrainingOptions, with_groups


@with_groups
def pretrain(
    training: TrainingOptions,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs; default: from the settings.")] = None,
) -> None:
    """Pretrain on unlabelled images, for compress train --init."""
    processes.quieten()
    from compress import config as config_
    from compress.training.build import pretrain_baseline
    from compress.variant import Variant

    console = terminal.make_console()
    settings = training.apply(config_.read(training.config, training.data, training.seed))
    if epochs is not None:
        length = settings.pretrain.model_copy(update={"epochs": epochs, "steps": 0})
        settings = settings.model_copy(update={"pretrain": length})
    with processes.training(training, console.print) as team:
        file = training.out / pretrain_baseline(team.open_run(settings, Variant(()))).path.name
        console.print(f"pretrained: {file}; train it with: compress train --init {file}")
