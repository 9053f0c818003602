"""Databases of Optuna that several processes share: files or URLs, opened and checked before anything is added."""

import contextlib
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock
from optuna.exceptions import OptunaError, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from baselines.errors import InputError

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
    """A database of trials.

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
