"""Beside each file that a command makes, what made it; a better one, or one of unknown origin, is not overwritten.

model.int8.onnx.json    of model.int8.onnx
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from baselines.errors import InputError
from compress import __version__, files
from reports import Row
from reports.significance import compare_proportions, judge_accuracy
from reports.text import percent

FIGURES = ("label", "runtime", "dataset", "batch_size", "threads", "n_images", "top1", "top1_low", "top1_high")
FIGURES += ("top1_change", "overall", "overall_low", "overall_high", "speedup", "speedup_low", "speedup_high")
FIGURES += ("latency_s",)
UNKNOWN = "exists, and nothing beside it says what made it"
UNTOLD = {"path", "force", "images", "resume", "out", "dry_run"}  # of a request, what is no option of the work


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What makes a file, and whether it may replace any other."""

    source: Path  # the checkpoint, a file or folder
    command: str
    options: Mapping[str, Any]
    force: bool = False
    tested: int = 0  # test images that decided on the file, beside those that it was scored on

    @classmethod
    def of(cls, request: Any, source: Path, command: str) -> "Origin":
        """What makes the file of a request, which is a dataclass with `force`."""
        options = {each.name: getattr(request, each.name) for each in fields(request) if each.name not in UNTOLD}
        return cls(source=source, command=command, options=_make_plain(options), force=request.force)

    @cached_property
    def source_sha256(self) -> str:
        return hash_path(self.source)


def check_target(target: Path, origin: Origin, n_images: int | None = None) -> bool:
    """Whether `target` may be written as far as is known before the work: it may not without a record of its origin.

    Args:
        n_images: test images that the new file will be scored on; None: not known yet.

    Raises:
        InputError: it is of another source, or was scored on more images.
    """
    if origin.force or not target.exists():
        return True
    known = read_record(target)
    if known is not None and (objection := _object(known, origin, {"n_images": n_images}, early=True)):
        raise refuse(target, objection)
    return known is not None


def write_files(contents: Mapping[Path, bytes], main: Path, origin: Origin, row: Row | None = None) -> None:
    """Writes files that belong together, and the record of what made them beside `main`.

    Args:
        main: the file that names the record, or the folder that all of them are in.
        row: what was measured of it.

    Raises:
        InputError: what is there was made of another source, by a fuller or better measurement or by nobody knows
            what, and is not the same; or the place cannot be written.
    """
    figures = {name: value for name in FIGURES if row and (value := getattr(row, name)) is not None}
    present = [path for path in contents if path.exists()]
    same = len(present) == len(contents) and all(path.read_bytes() == contents[path] for path in present)
    known = read_record(main) if present else None
    if present and not same and not origin.force:
        objection = _object(known, origin, figures) if known else UNKNOWN
        if objection:
            raise refuse(main, objection)
    record = {
        "command": origin.command,
        "options": _make_plain(origin.options),
        "version": __version__,
        "source": str(origin.source),
        "source_sha256": origin.source_sha256,
        "files": {path.relative_to(main.parent).as_posix(): _hash(content) for path, content in contents.items()},
        **figures,
    }
    if known and same and _object(known, origin, figures):
        record = known  # of the better measurement of the same file
    text = json.dumps(record, indent=1, default=str) + "\n"
    files.write_together({locate_record(main): text, **contents})


def locate_record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def read_record(main: Path) -> dict[str, Any] | None:
    """What made a file; None where nothing says it, or the file is another by now."""
    try:
        record = json.loads(locate_record(main).read_text(encoding="utf-8"))
        hashes = {main.parent / name: digest for name, digest in record["files"].items()}
        same = all(_hash(path.read_bytes()) == digest for path, digest in hashes.items())
        return record if same and isinstance(record["source_sha256"], str) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def hash_path(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of all files directly in it; of `timm:NAME`, that of the name."""
    if not path.exists():
        return _hash(str(path).encode())
    digest = hashlib.sha256()
    for each in sorted(path.iterdir()) if path.is_dir() else [path]:
        if each.is_file():
            with each.open("rb") as file:
                while part := file.read(1 << 20):
                    digest.update(part)
    return digest.hexdigest()


def _object(known: Mapping[str, Any], origin: Origin, new: Mapping[str, Any], *, early: bool = False) -> str:
    """What speaks against replacing a file; empty where nothing does. `early`: the new one is not measured yet."""
    images, wanted = known.get("n_images"), new.get("n_images")
    if known["source_sha256"] != origin.source_sha256:
        return f"was made of other weights ({known.get('source')})"
    if known.get("options") == _make_plain(origin.options):
        return ""  # the very same again, which may choose otherwise
    if isinstance(images, int) and not (early and wanted is None) and images > (wanted or 0) + origin.tested:
        return f"was scored on {images:,} test images, and this would be on {wanted or 0:,}"
    top1, other = known.get("top1"), new.get("top1")
    if isinstance(top1, float) and isinstance(other, float):
        p = compare_proportions(other, wanted, top1, images)
        if judge_accuracy(other - top1, p) == "worse":
            return f"has a significantly higher top-1, {percent(top1, images)} % against {percent(other, wanted)} %"
    return ""


def refuse(target: Path, objection: str = UNKNOWN) -> InputError:
    """The error of a command that does not replace a file."""
    return InputError(f"{target} {objection}; --force replaces it, and --out writes elsewhere")


def _make_plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(json.dumps(dict(options), default=_describe))


def _describe(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
