"""Files made for engines, ONNX and OpenVINO's, looked through before an engine opens them.

Engines open whatever files a graph names, and set memory aside for whatever it claims. Here a graph may name files of
its own folder only, in which its weights really lie. What its nodes compute is not looked at.
"""

import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from xml.parsers import expat

from baselines.errors import InputError

LARGEST_ONNX = 2**31 - 1  # bytes; what protobuf takes
LARGEST_XML = 256 * 2**20
MOST_FIELDS = 1_000_000  # of a graph, weights not counted one by one
DEEPEST = 100  # messages, or elements, inside of one another
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types of protobuf


def check_onnx(path: Path) -> None:
    """Looks through an ONNX file without reading its weights.

    Raises:
        InputError: it is none, is damaged, or its weights lie outside its folder, or nowhere.
    """
    _check_file(path, LARGEST_ONNX)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            external = Messages(content).external_data()
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is no ONNX file, or is cut short or damaged; export it anew") from error
    for entries in external:
        _check_external(path, entries)


class Messages:
    """The messages of a model, field by field as protobuf wrote them."""

    def __init__(self, content: Any):
        self.content, self.fields = content, 0

    def external_data(self) -> list[list[tuple[str, str]]]:
        """(key, value) of what each tensor says of the file in which it lies; nothing of those in the model itself.

        Raises:
            ValueError: this is no model.
        """
        import onnx

        found: list[list[tuple[str, str]]] = []
        names = self._walk(onnx.ModelProto.DESCRIPTOR, 0, len(self.content), found, 0)
        if not {"ir_version", "graph"} <= names:
            raise ValueError("no model")
        return found

    def _walk(self, kind: Any, start: int, end: int, found: list[list[tuple[str, str]]], depth: int) -> set[str]:
        """Goes through one message and those inside of it; gives the names of its fields."""
        if depth > DEEPEST:
            raise ValueError("messages inside of one another without end")
        names, entries = set(), []
        for number, wire, first, last in self._fields(start, end):
            field = kind.fields_by_number.get(number)
            if field is None:
                continue
            names.add(field.name)
            if wire == BYTES and field.message_type is not None:
                if field.name == "external_data":
                    entries.append(self._entry(first, last))
                self._walk(field.message_type, first, last, found, depth + 1)
        if entries:
            found.append(entries)
        return names

    def _entry(self, start: int, end: int) -> tuple[str, str]:
        texts = {
            number: self.content[first:last].decode()
            for number, wire, first, last in self._fields(start, end)
            if wire == BYTES
        }
        return texts.get(1, ""), texts.get(2, "")

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Number, wire type, and where its content begins and ends, of each field of a message."""
        while start < end:
            self.fields += 1
            if self.fields > MOST_FIELDS:
                raise ValueError("more than any graph has")
            tag, first = self._number(start, end)
            wire, last = tag & 7, first
            if wire == VARINT:
                _, last = self._number(first, end)
            elif wire == BYTES:
                length, first = self._number(first, end)
                last = first + length
            elif wire in (FIXED64, FIXED32):
                last = first + (8 if wire == FIXED64 else 4)
            else:
                raise ValueError("no field")
            if last > end:
                raise ValueError("cut short")
            yield tag >> 3, wire, first, last
            start = last

    def _number(self, start: int, end: int) -> tuple[int, int]:
        """Seven bits a byte, the lowest first, and where they end."""
        value = 0
        for index in range(start, min(end, start + 10)):
            byte = self.content[index]
            value |= (byte & 127) << 7 * (index - start)
            if byte < 128:
                return value, index + 1
        raise ValueError("no number")


def _check_external(path: Path, entries: list[tuple[str, str]]) -> None:
    """Raises InputError unless what a tensor says of its file is so."""
    numbers = {"offset": 0, "length": 0}
    for key, value in entries:
        if key in numbers:
            if not (value.isascii() and value.isdecimal() and len(value) < 19):
                raise InputError(f"{path} is damaged: weights that begin at {value[:40]!r}; export it anew")
            numbers[key] = int(value)
    for location in [value for key, value in entries if key == "location"] or [""]:
        parts = PurePosixPath(location.replace("\\", "/")).parts
        rooted = location.startswith(("/", "\\")) or PureWindowsPath(location).drive or ".." in parts
        beside = path.parent / location
        if rooted or "\0" in location or path.parent.resolve() not in beside.resolve().parents:
            raise InputError(
                f"{path} asks for a file outside its own folder ({location[:80]}), so it is refused; "
                "fetch it again, or export it anew"
            )
        if not os.path.isfile(beside):
            raise InputError(f"{path} lacks its weights, {location[:80]}; keep both files in one folder")
        if sum(numbers.values()) > beside.stat().st_size:
            raise InputError(f"{beside} is shorter than {path.name} says; fetch both again, or export them anew")


def check_xml(path: Path) -> None:
    """Looks through an OpenVINO file, whose weights lie beside it in a .bin file.

    Raises:
        InputError: it is none, is damaged, declares entities, or its weights are not there.
    """
    _check_file(path, LARGEST_XML)
    graph = Elements()
    try:
        with path.open("rb") as file:
            graph.parser.ParseFile(file)
        if graph.root != "net":
            raise ValueError("no graph")
    except (expat.ExpatError, ValueError, OSError) as error:
        raise InputError(f"{path} is no OpenVINO file, or is damaged ({error}); export it anew") from error
    weights = path.with_suffix(".bin")
    if graph.end is not None and not os.path.isfile(weights):
        raise InputError(f"{path} lacks its weights, {weights.name}; keep both files in one folder")
    if graph.end is not None and graph.end > weights.stat().st_size:
        raise InputError(f"{weights} is shorter than {path.name} says; fetch both again, or export them anew")


class Elements:
    """The elements of an XML file of OpenVINO, as they are met."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate("utf-8")  # whatever the file declares: an engine may believe something else
        self.parser.StartElementHandler, self.parser.EndElementHandler = self._start, self._end
        self.parser.StartDoctypeDeclHandler = self.parser.EntityDeclHandler = self._declared
        self.root, self.depth, self.count = "", 0, 0
        self.end: int | None = None  # of the weights, in bytes; None where there are none

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.root, self.depth, self.count = self.root or name, self.depth + 1, self.count + 1
        if self.depth > DEEPEST or self.count > MOST_FIELDS:
            raise ValueError("more than any graph has")
        if name == "data" and {"element_type", "offset", "size"} <= attributes.keys():
            places = [attributes[key] for key in ("offset", "size")]
            if not all(place.isascii() and place.isdecimal() and len(place) < 19 for place in places):
                raise ValueError("weights that lie nowhere")
            self.end = max(self.end or 0, sum(map(int, places)))

    def _end(self, _name: str) -> None:
        self.depth -= 1

    def _declared(self, *_told: Any) -> None:
        raise ValueError("it declares entities, which no such file needs")


def _check_file(path: Path, largest: int) -> None:
    try:
        about = os.stat(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give another file") from error
    if not stat.S_ISREG(about.st_mode):
        raise InputError(f"{path} is no file; give the path of one")
    if not about.st_size:
        raise InputError(f"{path} is empty; export it anew")
    if about.st_size > largest:
        raise InputError(f"{path} has {about.st_size:,} bytes, more than such a file can have; export it anew")
