"""What is noted of a training while it runs: `training.jsonl`, lines at the terminal, TensorBoard.

A record is what `fit` returns for an epoch; what was known before the first step stands in the first, as `before_*`.
The file always holds the epochs from the first to the newest, each once, however often the training was interrupted.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from baselines.errors import InputError
from compress import files

LONG_EPOCH_S = 10.0  # a shorter one is not worth a line
BEFORE = "before_"  # of names in the first record
Record = dict[str, float]


def read(path: Path) -> list[Record]:
    """The records of a `training.jsonl`; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write(path: Path, records: Sequence[Record]) -> None:
    files.write(path, "".join(json.dumps(record) + "\n" for record in records))


class Curves:
    """Takes the record of each epoch as soon as it ends; to be called by `fit`, and closed by a `with`.

    Args:
        name: of what is trained.
        path: the `training.jsonl`.
        say: takes lines for the person at the terminal.
        board: folder for TensorBoard's event files; None: there are none.
    """

    def __init__(self, name: str, path: Path, say: Callable[[str], None], board: Path | None = None):
        self.name, self.path, self.say, self.board = name, path, say, board
        self.make_writer: Any = writer_class() if board else None
        self.writer: Any = None  # of TensorBoard, from the first record on

    def __call__(self, record: Record) -> None:
        earlier = [known for known in read(self.path) if known["epoch"] < record["epoch"]]
        write(self.path, [*earlier, record])
        if self.make_writer:
            self._show(earlier, record)
        if record["seconds"] >= LONG_EPOCH_S:
            self.say(f"  {self.name}: {_words(record)}")

    def __enter__(self) -> "Curves":
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def _show(self, earlier: Sequence[Record], record: Record) -> None:
        """Adds an epoch to the event files, and before the first one those of `earlier` processes.

        What such a process wrote is written again, and readers are told to forget everything from step 0 on, so that
        no step appears twice. The time of an epoch is as if the training had never been interrupted.
        """
        now = time.time()
        if self.writer is None:
            assert self.board
            try:
                self.writer = self.make_writer(str(self.board), purge_step=0)
            except OSError as error:
                raise files.unwritable(self.board, error) from error
            for i, known in enumerate(earlier):
                later = [*earlier[i + 1 :], record]
                self._add(known, now - sum(each["seconds"] for each in later))
        self._add(record, now)
        self.writer.flush()

    def _add(self, record: Record, when: float) -> None:
        epoch, started = int(record["epoch"]), when - record["seconds"]
        for name, value in sorted(record.items(), key=lambda item: not item[0].startswith(BEFORE)):
            label = name.removeprefix(BEFORE)
            step, time_s = (epoch, when) if label == name else (0, started)
            if name != "epoch":
                self.writer.add_scalar(f"{_group(label)}/{label}", value, step, walltime=time_s)


def writer_class() -> Any:
    """TensorBoard's writer.

    Raises:
        InputError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise InputError(
            f"--tensorboard needs a package that is not installed ({error}); pip install tensorboard"
        ) from error
    return SummaryWriter


def _group(name: str) -> str:
    """The heading under which TensorBoard shows a figure."""
    if name in ("images_per_s", "seconds"):
        return "speed"
    return "accuracy" if name.endswith(("top1", "recall")) else "training"


def _words(record: Record) -> str:
    parts = [f"epoch {record['epoch']:.0f}", f"loss {record['loss']:.3f}"]
    shares = {"train_top1": "train", "validation_top1": "validation"}  # which pretraining does not have
    parts += [f"{word} {record[name]:.1%}" for name, word in shares.items() if name in record]
    return f"{', '.join(parts)}, {record['images_per_s']:,.0f} images/s"
