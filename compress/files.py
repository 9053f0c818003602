"""Files that appear complete or not at all."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import psutil
from pydantic import ValidationError

from baselines.errors import InputError

DAY_S = 86400.0
SCRATCH = re.compile(r"compress_scratch_(\d{1,9})_[a-z0-9_]{8}")
MARK = ".made_by_compress"


def write(path: Path, content: bytes | str) -> None:
    """Writes beside the target, then renames; creates the folder where it is missing.

    Raises:
        InputError: the place cannot be written or is full. What was there before is untouched.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes | str]) -> None:
    """Writes files that belong together: renames none before all are whole, and the last one last.

    Raises:
        InputError: as `write`.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    path = next(iter(contents))
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary[path].open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
        with _undisturbed():
            for path in contents:
                temporary[path].replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        for half in temporary.values():
            _forget(half)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and what ends a command wait until this is done; it has to be short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in (getattr(signal, name) for name in names)}
    before = {number: handler for number, handler in before.items() if callable(handler)}
    try:
        for number in before:
            signal.signal(number, lambda number, _frame: waiting.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in waiting:
            signal.raise_signal(number)


def append(path: Path, line: str) -> None:
    """Adds one line. A line that a kill or a full disk cut off before is cut away first.

    Raises:
        InputError: the place cannot be written or is full; the file is as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:  # a buffer would be written after all when the file is closed
            _lock(file)
            file.seek(0)
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)
            rest = memoryview(line.encode() + b"\n")
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(whole)
                raise
    except OSError as error:
        raise unwritable(path, error) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Whoever else enters for this file waits, in this process or another; raises InputError where it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f".{path.name}.lock").open("ab")
    except OSError as error:
        raise unwritable(path, error) from error
    with file:
        _lock(file)
        yield


def _lock(file: IO[bytes]) -> None:
    """Waits until no other process has the file; it is free again when it is closed."""
    with contextlib.suppress(ImportError, OSError):  # not on Windows, nor on every network drive
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone afterwards. Those that killed processes left a day ago, or before, go with it.

    What is removed was made here: it is named so, and holds the file that says it.
    """
    for old in Path(tempfile.gettempdir()).iterdir():
        named = SCRATCH.fullmatch(old.name)
        if named is None or not (old / MARK).is_file() or old.is_symlink():
            continue
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > DAY_S and not psutil.pid_exists(int(named[1])):
                shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"compress_scratch_{os.getpid()}_", ignore_cleanup_errors=True) as folder:
        (Path(folder) / MARK).touch()
        yield Path(folder)


def writable_folder(path: Path) -> Path:
    """`path`, created if need be and known to take files.

    Raises:
        InputError: it does not.
    """
    probe = path / f".write-test.{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
    except OSError as error:
        raise InputError(f"--out {path} cannot be written ({error.strerror}); choose another folder") from error
    finally:
        _forget(probe)
    return path


def unwritable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"{path} could not be written ({error.strerror or error}); free some space or choose another place"
    )


def key(*parts: Any) -> str:
    """Short hash of JSON-like values: the name under which work that depends on them is kept."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def explain(error: ValidationError, where: str) -> InputError:
    """The first fault of a settings object as one sentence."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _known_keys(error, first["loc"])
        return InputError(f"{where}: {name!r} is not a known key{known}; correct or remove it")
    message = first["msg"].removeprefix("Value error, ")
    if message.startswith("Input should"):
        given = repr(first["input"])
        given = given if len(given) <= 60 else f"{given[:60]}..."
        return InputError(f"{where}: {name!r} {message.removeprefix('Input ')}, not {given}; correct it")
    return InputError(f"{where}: {f'{name!r}: ' if name else ''}{message}")


def _known_keys(error: ValidationError, location: tuple[int | str, ...]) -> str:
    import difflib

    names = sorted(_names_beside(error.title, location))
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f", did you mean {close[0]!r}" if close else (f" (known: {', '.join(names)})" if names else "")


def _names_beside(title: str, location: tuple[int | str, ...]) -> list[str]:
    from pydantic import BaseModel

    def find(model: type[BaseModel]) -> type[BaseModel] | None:
        if model.__name__ == title:
            return model
        return next((found for sub in model.__subclasses__() if (found := find(sub))), None)

    model: Any = find(BaseModel)
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation if model and part in model.model_fields else None
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    return list(model.model_fields) if model else []


def forget_halves(path: Path) -> None:
    """Removes what killed processes left of a file they were writing."""
    for half in path.parent.glob(f".{path.name}.*.tmp"):
        _forget(half)


def _forget(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
