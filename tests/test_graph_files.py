"""Graphs are looked through before an engine opens them: the weights they name lie beside them, or they are refused."""

from pathlib import Path
from typing import Any

import pytest
from hostile_files import XML, graph
from onnx import ModelProto, helper

from baselines.errors import InputError
from compress.checkpoints.graph_files import check_onnx, check_xml
from compress.cli import main

OUTSIDE = "asks for a file outside its own folder"
NONE, NO_XML = "is no ONNX file", "is no OpenVINO file"
ENTITIES = b'<!DOCTYPE net [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
ELSEWHERE = b'<!DOCTYPE net [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


def external(location: str, **said: Any) -> bytes:
    """A graph whose weights lie elsewhere."""
    proto = ModelProto.FromString(graph())
    for entry in proto.graph.initializer[0].external_data:
        entry.value = str({"location": location, **said}.get(entry.key, entry.value))
    return proto.SerializeToString()


def in_a_branch(location: str) -> bytes:
    """Weights in a graph that a node holds."""
    inner = ModelProto.FromString(external(location)).graph
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    return helper.make_model(helper.make_graph([node], "graph", [], [])).SerializeToString()


def in_a_function(location: str) -> bytes:
    """Weights in an attribute of a node of a function."""
    proto = ModelProto.FromString(external(location))
    node = helper.make_node("Constant", [], ["y"], value=proto.graph.initializer[0])
    proto.functions.append(helper.make_function("own", "f", [], ["y"], [node], []))
    del proto.graph.initializer[:]
    return proto.SerializeToString()


def endless() -> bytes:
    """A branch inside of a branch, many times."""
    inner = b""
    for number in [0x32, 0x2A, 0x0A] * 40:  # the graph in an attribute of a node
        inner = field(number, inner)
    return b"\x08\x0a" + field(0x3A, inner)


def field(tag: int, content: bytes) -> bytes:
    size, length = len(content), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([tag, *length, size]) + content


GRAPHS: dict[str, tuple[bytes, str]] = {
    "rooted.onnx": (external("/etc/hostname"), OUTSIDE),
    "up.onnx": (external("../secret.data"), OUTSIDE),
    "down_and_up.onnx": (external("inner/../../secret.data"), OUTSIDE),
    "windows.onnx": (external("C:\\secret.data"), OUTSIDE),
    "backwards.onnx": (external("..\\secret.data"), OUTSIDE),
    "link.onnx": (external("link.data"), OUTSIDE),
    "itself.onnx": (external("."), OUTSIDE),
    "nowhere.onnx": (external(""), OUTSIDE),
    "branch.onnx": (in_a_branch("../secret.data"), OUTSIDE),
    "function.onnx": (in_a_function("../secret.data"), OUTSIDE),
    "address.onnx": (external("*/_ORT_MEM_ADDR_/*", offset=2**40), "lacks its weights"),
    "missing.onnx": (external("elsewhere.data"), "lacks its weights, elsewhere.data; keep both files in one folder"),
    "beyond.onnx": (external("weights.data", offset=2**40), "weights.data is shorter than beyond.onnx says"),
    "negative.onnx": (external("weights.data", offset=-4), "is damaged"),
    "half.onnx": (graph()[:60], NONE),
    "text.onnx": (b"hello, world", NONE),
    "deep.onnx": (endless(), NONE),
    "fields.onnx": (b"\x08\x0a" + field(0x3A, b"\x0a\0" * 1_000_100), NONE),
    "empty.onnx": (b"", "is empty"),
    "entities.xml": (XML.replace(b"<net", ENTITIES + b"<net"), "declares entities"),
    "elsewhere.xml": (XML.replace(b"<net", ELSEWHERE + b"<net"), "declares entities"),
    "wide.xml": (XML.replace(b"<net", ENTITIES + b"<net").decode().encode("utf-16"), "declares entities"),
    "deep.xml": (b"<net>" + b"<a>" * 10**5, NO_XML),
    "other.xml": (b"<html/>", NO_XML),
    "huge.xml": (XML.replace(b'size="64"', b'size="18446744073709551615"'), NO_XML),
    "longer.xml": (XML.replace(b'size="64"', b'size="65"'), "longer.bin is shorter than longer.xml says"),
    "missing.xml": (XML, "lacks its weights, missing.bin; keep both files in one folder"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_that_no_engine_may_open(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in (tmp_path / "secret.data", folder / "weights.data", folder / "longer.bin"):
        path.write_bytes(bytes(64))
    (folder / "link.data").symlink_to(tmp_path / "secret.data")
    (folder / name).write_bytes(GRAPHS[name][0])
    with pytest.raises(InputError, match=r"^[^\n]{1,400}$") as caught:
        (check_onnx if name.endswith(".onnx") else check_xml)(folder / name)
    assert str(folder) in str(caught.value)
    assert GRAPHS[name][1] in str(caught.value)


def test_graphs_whose_weights_are_there(tmp_path: Path) -> None:
    for name, content in {"weights.data": bytes(64), "a.onnx": graph(), "a.xml": XML, "a.bin": bytes(64)}.items():
        (tmp_path / name).write_bytes(content)
    check_onnx(tmp_path / "a.onnx")
    check_xml(tmp_path / "a.xml")


def test_doctor_refuses_it_in_a_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(external("/etc/hostname"))
    assert main(["doctor", str(path)]) == 2
    said, error = capfd.readouterr()
    assert (said, error.count("\n")) == ("", 1)
    assert error.startswith(f"error: {path} {OUTSIDE} (/etc/hostname)")
