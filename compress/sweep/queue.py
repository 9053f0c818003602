"""The trials of a sweep as a list of work that several processes share; Optuna keeps it in a database.

A slot is one piece of work. All are laid out before anything runs, so that nothing is done twice. A trial of Optuna is
one attempt at a slot: where its process died, the attempt is dropped, that is, it failed for no reason, and another one
waits with the same values. Whoever finds two attempts at one slot drops the later one.
"""

import contextlib
import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.exceptions import DuplicatedStudyError, OptunaError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from baselines.errors import InputError
from compress.sweep.settings import Point, Range, Sweep
from reports.sweep import State, Trial

STALE_S = 900.0  # a process elsewhere that gave no sign of life for so long is dead; one comes at least every 2 minutes
FAULTS = (
    OptunaError,
    sqlite3.Error,
    ImportError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
)
BEGIN_S = 60.0  # between being taken and being begun, at most
STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "impossible",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class Taken:
    """A trial that this process works on."""

    number: int  # of the slot, from 1
    trial: optuna.Trial
    point: Point

    def begin(self, place: str, key: str) -> None:
        """Says who works on it, and under which lock."""
        self._note(place=place, key=key)
        self.alive()

    def alive(self) -> None:
        self._note(alive=time.time())

    def done(self, found: dict[str, Any]) -> None:
        self._note(**found)
        self._tell(values=[found["top1"], found["macs_per_image"]])

    def impossible(self, reason: str) -> None:
        self._note(reason=reason)
        self._tell(state=TrialState.PRUNED)

    def failed(self, reason: str) -> None:
        self._note(reason=reason)
        self.drop()

    def drop(self) -> None:
        """Leaves it to whoever comes next."""
        self._tell(state=TrialState.FAIL)

    def _note(self, **attributes: Any) -> None:
        with contextlib.suppress(UpdateFinishedTrialError):  # it was taken for dead, and another attempt at it waits
            for name, value in attributes.items():
                self.trial.set_user_attr(name, value)

    def _tell(self, **outcome: Any) -> None:
        with contextlib.suppress(UpdateFinishedTrialError, ValueError):
            self.trial.study.tell(self.trial, **outcome)


class Queue:
    """The slots of a sweep.

    Args:
        storage: of Optuna; what of this sweep is in it already is gone on with.
        key: hash of all that decides on the trials.
        place: name of the run directory, on this machine.
        held: whether a process works in this run directory on the trial of a key.
    """

    def __init__(self, sweep: Sweep, storage: BaseStorage, key: str, place: str, held: Callable[[str], bool]):
        self.plan, self.seed, self.place, self.held = sweep.plan, sweep.base.seed, place, held
        self.slots, name = sweep.plan.slots(), f"{sweep.name}-{key}"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        options = {"storage": storage, "sampler": self._sampler(0)}
        try:
            self.study = optuna.create_study(study_name=name, directions=["maximize", "minimize"], **options)
        except DuplicatedStudyError:
            self.study = optuna.load_study(study_name=name, **options)

    def take(self) -> Iterator[Taken]:
        """Trials to work on, one after another, until none waits."""
        while self._lay_out():
            trial = self.study.ask()
            slot = trial.user_attrs.get("slot", "")
            first = self._attempts().get(slot, [])[:1]
            if slot not in self.slots or [each.number for each in first] != [trial.number]:
                self.study.tell(trial, state=TrialState.FAIL)  # dropped: there is an earlier attempt
                continue
            trial.set_user_attr("place", self.place)
            number = list(self.slots).index(slot) + 1
            self.study.sampler = self._sampler(self.seed + number)
            yield Taken(number, trial, {name: self._value(trial, name) for name in self.plan.space})

    def trials(self) -> list[Trial]:
        """Every slot as it stands."""
        found, attempts = [], self._attempts()
        for number, (slot, point) in enumerate(self.slots.items(), 1):
            if slot not in attempts:
                found.append(Trial(number, "waiting", point))
                continue
            trial = attempts[slot][0]
            noted = {name: trial.user_attrs[name] for name in Trial.__dataclass_fields__ if name in trial.user_attrs}
            found.append(Trial(number, STATES[trial.state], trial.params or point, **noted))
        return found

    def _lay_out(self) -> bool:
        """Drops attempts whose process is dead, adds those that are missing; returns whether one waits."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._dead(trial):
                with contextlib.suppress(UpdateFinishedTrialError, ValueError):  # another process was quicker
                    self.study.tell(trial.number, state=TrialState.FAIL)
        attempts, dropped = self._attempts(), self._attempts(dropped=True)
        for slot, point in self.slots.items():
            if slot not in attempts:
                before = dropped.get(slot, [])
                self.study.enqueue_trial(before[-1].params or point if before else point, user_attrs={"slot": slot})
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _attempts(self, *, dropped: bool = False) -> dict[str, list[FrozenTrial]]:
        """By slot, those attempts that count, or those that were dropped; earliest first."""
        found: dict[str, list[FrozenTrial]] = {}
        for trial in self.study.get_trials(deepcopy=False):
            slot, reason = trial.user_attrs.get("slot"), trial.user_attrs.get("reason")
            if slot is not None and (trial.state == TrialState.FAIL and reason is None) == dropped:
                found.setdefault(slot, []).append(trial)
        return found

    def _dead(self, trial: FrozenTrial) -> bool:
        started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        silent_s, key = time.time() - trial.user_attrs.get("alive", started), trial.user_attrs.get("key")
        if trial.user_attrs.get("place") != self.place:
            return silent_s > STALE_S
        return silent_s > BEGIN_S if key is None else not self.held(key)

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """A sampler for one slot: processes that share a sweep must not draw the same."""
        if self.plan.sampler == "tpe":
            return optuna.samplers.TPESampler(seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)  # where a point is given, there is nothing to draw

    def _value(self, trial: optuna.Trial, name: str) -> Any:
        choices = self.plan.space[name]
        if not isinstance(choices, Range):
            return trial.suggest_categorical(name, choices)
        if isinstance(choices.low, int) and isinstance(choices.high, int):
            return trial.suggest_int(name, choices.low, choices.high, log=choices.log)
        return trial.suggest_float(name, choices.low, choices.high, log=choices.log)


@contextlib.contextmanager
def database(where: str, *faults: type[Exception]) -> Iterator[None]:
    """Makes InputErrors of what goes wrong with a database, and of further `faults`; a URL shows no password."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, *faults) as error:
        shown = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", where)
        fault = str(getattr(error, "orig", None) or error).partition("\n")[0]
        raise InputError(
            f"--storage {shown} cannot be used ({fault}); give a .db file, a .log file or the URL of a database"
        ) from error


def open_storage(where: str) -> BaseStorage:
    """The database of a sweep.

    Args:
        where: its URL, a file of SQLite, or a journal, whose name ends in `.log`.

    Raises:
        InputError: it cannot be opened.
    """
    with database(where, *FAULTS):
        if "://" in where:
            return RDBStorage(where)
        path = Path(where).resolve()
        if path.exists() and not path.is_file():
            raise ValueError("it is not a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):  # of two processes that make its tables one would fail
            if path.suffix == ".log":
                _check_journal(path)
                return JournalStorage(JournalFileBackend(str(path)))
            _check_database(path)
            return RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})


def _check_database(path: Path) -> None:
    """Raises ValueError where a file of SQLite is another program's: no tables are added to that."""
    if not path.exists() or not path.stat().st_size:
        return
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and not tables & {"studies", "version_info"}:  # of which Optuna makes all or, killed, the first
        raise ValueError(f"it is the database of another program, with the table {min(tables)!r}")


def _check_journal(path: Path) -> None:
    """Raises ValueError where another program wrote a file: nothing is to be added to that."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or not isinstance(entry.get("op_code"), int):
            if number == len(lines) > 1:  # whoever wrote it was killed
                break
            raise ValueError(f"line {number} is not an entry of an Optuna journal")
