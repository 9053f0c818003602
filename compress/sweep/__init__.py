"""`compress sweep`: the baseline is trained with many settings, which are compared on images held out of training.

settings.py   a sweep file -> what is tried
queue.py      who does what, in a database that several processes share
runner.py     one trial

    OUT/sweep.md, sweep.csv, sweep.png, sweep.svg    the report
    OUT/sweep.db                                     the database, where no other is given
    OUT/trials/<hash>/training.jsonl, result.json, state.pt while training
"""

import socket
from pathlib import Path

import torch
from rich.console import Console

from compress import files
from compress.measure import limits
from compress.storage import database, open_storage
from compress.sweep.queue import STALE_S, Queue
from compress.sweep.runner import Runner
from compress.sweep.settings import Sweep, read
from reports.sweep import Report, describe, render

__all__ = ["STALE_S", "read", "sweep"]


def sweep(asked: Sweep, out: Path, storage: str | None, device: torch.device, console: Console) -> Report:
    """Runs the trials that wait, and writes the report of all, also when it is stopped.

    Args:
        storage: a database that several processes share, as `open_storage` takes it.

    Raises:
        InputError: for anything the person can put right.
    """
    files.writable_folder(out)
    runner, where = Runner(asked, out, device, console.print), storage or str(out / "sweep.db")
    data, settings = runner.data(asked.base), tuple(asked.plan.space)
    with database(where):
        place = _name_place(out)
        queue = Queue(asked, open_storage(where), asked.key(data.fingerprint), place, runner.held)
        try:
            for taken in queue.take():
                try:
                    result = runner.run(taken, place)
                except BaseException:
                    taken.drop()
                    raise
                console.print(f"trial {taken.number} of {len(queue.slots)}, {describe(taken.point)}: {result}")
        finally:
            report = Report(asked.name, data.name, asked.plan.sampler, settings, tuple(queue.trials()))
            for name, content in render(report).items():
                files.write(out / name, content)
    return report


def _name_place(out: Path) -> str:
    """A folder of this machine, by what stays the same when a container starts again under another name.

    Locks tell which trials of it a living process has; between machines they may not.
    """
    boot, found = limits.read_text(Path("/proc/sys/kernel/random/boot_id")), out.stat()
    return f"{boot or socket.gethostname()}:{found.st_dev}:{found.st_ino}"
