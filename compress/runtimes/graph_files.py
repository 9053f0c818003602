"""Files made for engines, ONNX and OpenVINO's: what they say of themselves, and files fixed to one batch size.

Nothing here imports an engine, and files are looked through before they are read.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from baselines.errors import InputError
from compress import files
from compress.checkpoints.graph_files import check_onnx, check_xml
from reports.text import clean


@dataclass(frozen=True)
class GraphFile:
    """What stands in a file beside its graph."""

    metadata: dict[str, str]  # as compress wrote them; see `describe_file`
    batch_size: int | None  # of all batches that it takes; None: any


def read_graph_file(path: Path) -> GraphFile:
    """Metadata and batch size of an .onnx or .xml file; raises InputError where it is none, or not safe to open."""
    return (_read_xml if path.suffix == ".xml" else _read_onnx)(path)


def fixed_batch(path: Path) -> int | None:
    """The only batch size that the file of an engine takes; None where it takes any, or where it is a checkpoint."""
    return read_graph_file(path).batch_size if path.suffix in (".onnx", ".xml") else None


def fix_batch(source: Path, target: Path, batch_size: int) -> None:
    """Writes a graph of a free batch size once more, fixed to one.

    Args:
        target: of the same suffix as `source`.

    Raises:
        InputError: `source` is no such file, takes another batch size alone, or `target` cannot be written.
        RuntimeError: OpenVINO does not take it.
    """
    taken = fixed_batch(source)
    if taken not in (None, batch_size):
        raise InputError(f"{source} takes batches of {taken} alone; give a file of a free batch size")
    if source.suffix == ".xml":
        from compress.runtimes.openvino_export import convert_file, move_pair

        with tempfile.TemporaryDirectory() as folder:
            convert_file(source, fixed := Path(folder) / "fixed.xml", batch_size)
            move_pair(fixed, target)
        return
    from compress.exporters.onnx import set_batch_size

    _rewrite_onnx(source, target, lambda proto: set_batch_size(proto, batch_size))


def relabel(source: Path, target: Path, metadata: Mapping[str, str]) -> None:
    """Writes a graph of ours once more, with other metadata; what is not among them stays."""
    if source.suffix == ".xml":
        tree = ElementTree.parse(source)
        (section,) = tree.findall("rt_info/compress")
        for name, value in metadata.items():
            entry = section.find(name)
            (ElementTree.SubElement(section, name) if entry is None else entry).set("value", value)
        content = ElementTree.tostring(tree.getroot(), xml_declaration=True, encoding="utf-8")
        files.write_together({target.with_suffix(".bin"): source.with_suffix(".bin").read_bytes(), target: content})
        return
    import onnx

    def change(proto: onnx.ModelProto) -> None:
        onnx.helper.set_model_props(proto, {**{each.key: each.value for each in proto.metadata_props}, **metadata})

    _rewrite_onnx(source, target, change)


def _rewrite_onnx(source: Path, target: Path, change: Callable[[Any], None]) -> None:
    """Writes a graph once more, changed; weights that lie outside go with it, and are not read."""
    import onnx

    from compress.exporters import external

    proto = onnx.load(source, load_external_data=False)
    change(proto)
    if external.point_to(proto, external.locate_weights(target)):
        external.share_file(external.locate_weights(source), external.locate_weights(target))
    files.write(target, proto.SerializeToString())


def _read_onnx(path: Path) -> GraphFile:
    import onnx
    from google.protobuf.message import DecodeError

    check_onnx(path)
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise InputError(f"{path} is no ONNX file, or is damaged ({clean(error)}); export it anew") from error
    constants = {each.name for each in proto.graph.initializer}
    taken = [each for each in proto.graph.input if each.name not in constants]
    shape = taken[0].type.tensor_type.shape.dim if taken else []
    batch = shape[0].dim_value if shape else 0  # 0 where it has a name, or nothing
    return GraphFile({entry.key: entry.value for entry in proto.metadata_props}, batch or None)


def _read_xml(path: Path) -> GraphFile:
    check_xml(path)
    root = ElementTree.parse(path, ElementTree.XMLParser(encoding="utf-8")).getroot()  # as it was checked
    entries = root.find("rt_info/compress")
    metadata = {} if entries is None else {entry.tag: entry.attrib.get("value", "") for entry in entries}
    taken = root.find("layers/layer[@type='Parameter']/data")
    batch = "" if taken is None else taken.attrib.get("shape", "").split(",")[0]
    return GraphFile(metadata, int(batch) if batch.isascii() and batch.isdecimal() and len(batch) < 10 else None)
