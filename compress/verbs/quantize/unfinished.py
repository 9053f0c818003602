"""What an interrupted `compress quantize` leaves to the same command: a folder beside the rows.

    OUT/unfinished-KEY/    files of recipes, calibrated models, layers that --max-drop keeps in float, classes of images

KEY is made of all that these depend on, so a command with other options, images or versions finds nothing there.
Latency is always measured anew: figures that are compared come from the same rounds. A command that ends well, or
cannot, removes its folder.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from compress import __version__, files, runtimes
from compress.checkpoints import checkpoint
from compress.evaluate import Images
from compress.measure import environment
from compress.methods import Int8, Qat
from compress.outcome import Stopped
from compress.sidecar import Origin
from compress.verbs.quantize.request import Request
from compress.verbs.quantize.source import CALIBRATED, Source

PREFIX, LOCK, LAYERS = "unfinished-", ".lock", "layers.json"
WEEK_S = 7 * 86400.0  # after which what nobody went on with is removed


@dataclass(frozen=True)
class Found:
    """What a folder holds, counted."""

    built: int = 0
    calibrated: int = 0
    scored: int = 0
    layers: bool = False

    @classmethod
    def look(cls, folder: Path) -> "Found":
        """Counts, those of models with a few blocks alone as well."""
        counts = {pattern: len([*folder.rglob(pattern)]) for pattern in ("*.whole", f"{CALIBRATED}*.pth", "*.npz")}
        return cls(*counts.values(), layers=(folder / LAYERS).exists())

    def __str__(self) -> str:
        told = [
            f"{self.built} built file{'s' * (self.built != 1)}" if self.built else "",
            f"{self.calibrated} calibrated model{'s' * (self.calibrated != 1)}" if self.calibrated else "",
            "the layers that stay float" if self.layers else "",
            f"the accuracy of {self.scored}" if self.scored else "",
        ]
        *others, last = [each for each in told if each] or [""]
        return f"{', '.join(others)} and {last}" if others else last


@contextlib.contextmanager
def keep_folder(request: Request, key: str) -> Iterator[tuple[Path, Found] | None]:
    """The folder of a command, and what an earlier run left there; it is gone afterwards, unless by an interruption.

    None where another process works in it.

    Raises:
        InputError: the place cannot be written.
        Stopped: it was interrupted, and something is kept.
    """
    folder = request.folder / f"{PREFIX}{key}"
    place = None if request.folder.exists() else request.folder  # made for this alone
    _sweep(request.folder)
    files.writable_folder(folder)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield None
        return
    if not request.resume:
        _empty(folder)
    try:
        yield folder, Found.look(folder)
    except KeyboardInterrupt as stop:
        lock.release()
        found = str(Found.look(folder))
        if not found:
            _remove(folder, place)
        if not found or isinstance(stop, Stopped):
            raise
        raise Stopped(
            f"{found} kept in {folder}: run the same command again to resume (latency is measured again)"
        ) from stop
    except BaseException:
        lock.release()
        _remove(folder, place)
        raise
    lock.release()
    _remove(folder, place)


def make_key(request: Request, source: Source, method: Int8 | Qat, images: Images) -> str:
    """Of all that files and classes depend on."""
    options = Origin.of(request, request.path, "").options
    machine = environment.capture(request.device, request.threads, runtimes.list_packages())
    return files.key(
        [__version__, machine["versions"], machine["cpu"], *environment.name_gpu(machine)],
        options,
        [source.content.config.model_dump(), source.which.describe(), checkpoint.hash_state(source.content.state)],
        [source.data.fingerprint, source.data.classes, images.fingerprint, source.calibrated_on],
        [method.name, method.model_dump()],
    )


def write_layers(folder: Path, method: Int8, said: str) -> None:
    """Keeps what `--max-drop` came to."""
    files.write(folder / LAYERS, json.dumps({"skip": method.skip, "said": said}))


def read_layers(folder: Path, method: Int8) -> tuple[Int8, str] | None:
    """What `write_layers` kept, and the sentence that explains it; None where there is nothing."""
    try:
        kept = json.loads((folder / LAYERS).read_text(encoding="utf-8"))
        return method.model_copy(update={"skip": tuple(kept["skip"])}), str(kept["said"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sweep(place: Path) -> None:
    """Removes what nobody went on with for a week, and what an interruption left of a folder that was being removed."""
    for old in place.glob(f".{PREFIX}*.tmp"):
        shutil.rmtree(old, ignore_errors=True)
    for old in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, Timeout):
            if time.time() - old.stat().st_mtime > WEEK_S and (old / LOCK).is_file():
                with FileLock(old / LOCK, timeout=0):
                    pass
                _remove(old)


def _empty(folder: Path) -> None:
    for each in folder.iterdir():
        if each.name != LOCK:
            shutil.rmtree(each) if each.is_dir() else each.unlink()


def _remove(folder: Path, place: Path | None = None) -> None:
    """Under another name first: half a folder is never found. `place`, around it, goes where nothing else is in it."""
    gone = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
    if place is not None:
        with contextlib.suppress(OSError):
            place.rmdir()
