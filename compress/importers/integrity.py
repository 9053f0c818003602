"""Whether a file is there and whole, and whether a zip archive is what it says, before anything in it is believed.

torch's reader of zip files is another than Python's. What passes here reads the same in both: one directory, at the
end, of entries that follow one another, none of which lies about its size.
"""

import os
import stat
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from baselines.errors import InputError

ZIP = b"PK\x03\x04"
REMEDY = "fetch it again, or save it anew"
LONGEST_DIRECTORY = 8 * 2**20  # bytes of an archive that name its entries
MOST_ENTRIES = 100_000
UNPACKED = 4  # times its size, that an archive of arrays may grow, beside 64 MiB; weights hardly do
END, END64, LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
LOCAL = struct.Struct("<4s22x2H")  # in front of each entry: a mark, and how long its name and what follows it are
ENCRYPTED = 0x1  # of the flags of an entry


@dataclass(frozen=True)
class ArchiveEntry:
    """A file inside of an archive."""

    offset: int  # of its first byte in the archive
    size: int  # unpacked, in bytes


def refuse_damaged(path: Path) -> InputError:
    return InputError(f"{path} is cut short or damaged; {REMEDY}")


def read_first_bytes(path: Path) -> bytes:
    """The first 16; raises InputError where there is nothing to read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would never end
            raise InputError(f"{path} is no file; give the path of a checkpoint, such as best_vit_model.pth")
        with path.open("rb") as file:
            start = file.read(16)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{path}: there is no such file; give the path of a checkpoint, such as best_vit_model.pth"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); give another file") from error
    if not start:
        raise InputError(f"{path} is empty; {REMEDY}")
    return start


def check_archive(path: Path, *, stored: bool) -> dict[str, ArchiveEntry]:
    """The entries of a zip file by name, in their order.

    Args:
        stored: whether no entry may be compressed.

    Raises:
        InputError: it is damaged, contradicts itself, would leave its folder, or unpacks to far more than it is.
    """
    try:
        with path.open("rb") as file:
            end = _find_directory(file, path)
            with zipfile.ZipFile(file) as archive:
                listed = archive.infolist()
            if len(listed) > MOST_ENTRIES:
                raise InputError(
                    f"{path} holds {len(listed):,} entries, more than any model has, so it is refused; {REMEDY}"
                )
            for entry in listed:
                _check_entry(entry, path, stored=stored)
            found = _locate_entries(file, listed, end, path)
    except InputError:
        raise
    except Exception as error:  # zipfile raises many kinds for damaged files
        raise refuse_damaged(path) from error
    size, unpacked = path.stat().st_size, sum(entry.size for entry in found.values())
    if unpacked > (size if stored else UNPACKED * size + 64 * 2**20):
        raise InputError(f"{path} unpacks to {unpacked:,} bytes out of {size:,}, so it is refused; {REMEDY}")
    return found


def _find_directory(file: IO[bytes], path: Path) -> int:
    """Where the directory begins; it has to end with the file, and to be short enough to be read."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - END64.size - LOCATOR.size - END.size, 0))
    tail = file.read()
    mark, *_, length, start, comment = END.unpack(tail[-END.size :])
    position = size - END.size
    locator = tail[: -END.size][-LOCATOR.size :]
    if locator.startswith(b"PK\x06\x07"):  # sizes of 64 bits
        mark64, *_, length, start = END64.unpack(tail[: END64.size])
        position -= LOCATOR.size + END64.size
        if mark64 != b"PK\x06\x06" or LOCATOR.unpack(locator)[2] != position:
            raise refuse_damaged(path)
    if mark != b"PK\x05\x06" or comment or start + length != position:
        raise refuse_damaged(path)
    if length > LONGEST_DIRECTORY:
        raise InputError(f"{path} holds more entries than any model has, so it is refused; {REMEDY}")
    return start


def _check_entry(entry: zipfile.ZipInfo, path: Path, *, stored: bool) -> None:
    name = PurePosixPath(entry.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts:
        raise InputError(
            f"{path} holds an entry outside its own folder ({entry.filename[:80]}), so it is refused; {REMEDY}"
        )
    if stored and entry.compress_type != zipfile.ZIP_STORED:
        raise InputError(
            f"{path} is compressed inside, as a program of TorchScript is and no checkpoint, so it is refused; "
            "save its weights alone: torch.save(model.state_dict(), 'weights.pth')"
        )
    unknown = entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & ENCRYPTED
    if unknown or (entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size):
        raise refuse_damaged(path)


def _locate_entries(file: IO[bytes], listed: list[zipfile.ZipInfo], end: int, path: Path) -> dict[str, ArchiveEntry]:
    """Where each entry lies; none may overlap another, or have the name of another."""
    found, names, free = {}, set(), 0
    for entry in sorted(listed, key=lambda each: each.header_offset):
        file.seek(entry.header_offset)
        mark, name, extra = LOCAL.unpack(file.read(LOCAL.size))
        offset = entry.header_offset + LOCAL.size + name + extra
        if mark != ZIP or entry.header_offset < free or offset + entry.compress_size > end:
            raise refuse_damaged(path)
        free = offset + entry.compress_size
        names.add(entry.filename.lower())  # torch's reader takes capitals for small letters
        found[entry.filename] = ArchiveEntry(offset, entry.file_size)
    if len(names) < len(listed):
        raise InputError(f"{path} holds several entries of the same name, so it is refused; {REMEDY}")
    return {entry.filename: found[entry.filename] for entry in listed}
