"""`compress sweep`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from compress.cli import processes, terminal
from compress.cli.options import Threads

SILENT_S = 180.0  # a process gives a sign of life every 2 minutes at least


def sweep(
    file: Annotated[Path, typer.Argument(help="TOML file of the search space; see configs/sweeps/.")],
    out: Annotated[Path | None, typer.Option(help="Output directory; default: runs/sweeps/FILE NAME.")] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Database to share between processes: a .db file, a .log file (for network file systems) or a URL. "
            "[default: OUT/sweep.db]"
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    threads: Threads = None,
) -> None:
    """Search hyperparameters of the baseline, scored on held-out training images."""
    processes.check_alone("compress sweep")
    import torch

    from baselines import device as devices
    from baselines.errors import InputError
    from compress import sweep as sweep_
    from compress.measure.environment import available_cpus, configure_allocator
    from reports.sweep import describe

    console = terminal.make_console()
    asked, chosen = sweep_.read(file), devices.resolve(device)
    torch.set_num_threads(threads or available_cpus())
    configure_allocator()
    folder = out or Path("runs/sweeps") / asked.name
    report = sweep_.sweep(asked, folder, storage, chosen, console)
    for trial in report.front:
        console.print(
            f"Pareto: {describe(trial.point)}: {trial.top1:.1%}, {(trial.macs_per_image or 0) / 1e6:.3g} MMACs"
        )
    left = [trial for trial in report.trials if trial.state in ("running", "waiting")]
    if left:
        console.print(f"{len(left)} trials still run in other processes; run the same command again for a full report")
    console.print(f"wrote {folder / 'sweep.md'}, sweep.csv and sweep.png")
    silent = [trial.number for trial in left if trial.alive and time.time() - trial.alive > SILENT_S]
    if silent:
        numbers = ", ".join(map(str, silent))
        raise InputError(
            f"trial {numbers} seems abandoned: its process has given no sign of life for "
            f"{SILENT_S:.0f} s; run the same command again in {sweep_.STALE_S / 60:.0f} minutes to restart it"
        )
