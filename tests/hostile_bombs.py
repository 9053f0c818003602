"""Files that ask for memory or time, lie about themselves, or are cut: how each is made, and words it is refused with.

Not a test.
"""

import collections
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_files as makers
import safetensors.torch
import torch
from hostile_files import Call, Stored, tensor

MANY = 160 * 2**20  # zeros


def in_archive(tree: Any, storage: bytes = bytes(16)) -> bytes:
    return makers.torch_archive(makers.pickled(tree), {"0": storage})


def before_1_6(elements: int, shape: tuple[int, ...], data: bytes) -> bytes:
    """A tensor in a storage that is said to have so many elements."""
    tree = {"a": tensor(Stored("0", elements, None), shape, (0,) * len(shape))}
    return makers.old_pickles(tree, ["0"], data)


def options_of_another_class() -> bytes:
    """Attributes that are set one by one, as for classes with slots: the class itself among them."""
    told = b"}X\x09\x00\x00\x00__class__ctorch\nSize\ns"
    return makers.torch_archive(b"\x80\x02cargparse\nNamespace\n)\x81}" + told + b"\x86b.")


def holds_itself() -> dict[str, Any]:
    tree: dict[str, Any] = {}
    tree["model"] = tree
    return tree


def doubled() -> Any:
    """Holds twice what holds twice what ..., 60 times."""
    last: Any = "x"
    for _ in range(60):
        last = [last, last]
    return last


def of_shape(shape: str, kind: str = "<f4") -> bytes:
    """An npz file with 16 bytes, and a header that says so."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return makers.archive({"a.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(16)})


def same_names() -> bytes:
    return makers.archive({"a.npy": b"x", "b.npy": b"y"}).replace(b"b.npy", b"A.npy")


def many_entries(count: int = 400_000) -> bytes:
    """A directory of nothing but names."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count % 65536, count % 65536, count * len(entry), 30, 0)
    return b"PK\x03\x04" + bytes(26) + entry * count + end


def in_front(raw: bytes) -> bytes:
    """An archive behind something else, which Python's reader passes over and torch's does not."""
    return makers.archive({"other/data.pkl": b"x"}) + raw


def lying_entry() -> bytes:
    """An entry that says it is larger than it is."""
    raw = bytearray(in_archive({"a": 1}))
    at = raw.index(b"PK\x01\x02") + 20
    raw[at : at + 8] = struct.pack("<2L", 2**31, 2**31)
    return bytes(raw)


def overlapping_entries() -> bytes:
    """Two entries that lie in the same place."""
    raw = bytearray(in_archive({"a": 1}))
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        last = archive.infolist()[-1]
    at = raw.rindex(b"PK\x01\x02") + 42
    assert struct.unpack("<L", raw[at : at + 4])[0] == last.header_offset
    raw[at : at + 4] = bytes(4)
    return bytes(raw)


def told(**said: Any) -> bytes:
    return makers.safetensors_file({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **said}}, bytes(16))


def half(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def weights_as(form: str) -> bytes:
    state = makers.timm()
    made = {"pth": makers.saved, "old": makers.legacy, "safetensors": safetensors.torch.save}
    return makers.arrays() if form == "npz" else made[form](state)


UNFIT = "its header does not fit it"
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb.pth": (lambda: makers.torch_archive(bytes(MANY), compressed=True), "is compressed inside"),
    "bomb.npz": (lambda: makers.archive({"a.npy": bytes(MANY)}, compressed=True), "unpacks to"),
    "storage.pth": (lambda: in_archive({"a": tensor(Stored("0", 2**33), (2**33,), (1,))}), "damaged"),
    "view.pth": (lambda: in_archive({"a": tensor(Stored("0", 4), (2**20, 2**20), (0, 0))}), "lies in 16 bytes"),
    "beyond.pth": (lambda: in_archive({"a": tensor(Stored("0", 4), (2,), (1,), 3)}), "lies in 16 bytes"),
    "asked.pth": (lambda: in_archive({"a": Call(torch.UntypedStorage, 2**33)}), "damaged"),
    "bytes.pth": (lambda: in_archive({"a": Call(bytearray, 2**33)}), "(builtins.bytearray)"),
    "uninitialised.pth": (lambda: in_archive({"a": Call(torch.Tensor, 2**16, 2**16)}), "(torch.Tensor)"),
    "old.pth": (lambda: before_1_6(2**33, (2**33,), bytes(99)), "damaged"),
    "old_view.pth": (lambda: before_1_6(4, (2**31,), struct.pack("<q", 4) + bytes(16)), "lies in 16 bytes"),
    "old_count.pth": (lambda: before_1_6(4, (4,), struct.pack("<q", 2**33) + bytes(16)), "damaged"),
    "itself.pth": (lambda: makers.saved(holds_itself()), "contain themselves"),
    "doubling.pth": (lambda: makers.saved({"a": doubled()}), "beyond all bounds"),
    "deep.pth": (lambda: makers.torch_archive(b"\x80\x02)" + b"\x85" * 10**5 + b"."), "beyond all bounds"),
    "key.pth": (lambda: makers.torch_archive(b"\x80\x02}K\x01" + b"q\x00h\x00\x86" * 60 + b"K\x01s."), "damaged"),
    "steps.pth": (lambda: makers.torch_archive(b"\x80\x02" + b"}" * 1_000_100 + b"."), "more values than any model"),
    "shadow.pth": (lambda: in_archive(Call(collections.OrderedDict, state={"items": "x", "get": 1})), "damaged"),
    "options.pth": (options_of_another_class, "damaged"),
    "entries.pth": (many_entries, "more entries than any model"),
    "entries.npz": (many_entries, "more entries than any model"),
    "path.pth": (lambda: makers.archive({"a/data.pkl": b"", "a/../../evil": b""}), "outside its own folder"),
    "rooted.npz": (lambda: makers.archive({"/etc/evil.npy": b""}), "outside its own folder"),
    "same.npz": (same_names, "several entries of the same name"),
    "front.pth": (lambda: in_front(in_archive({"a": 1})), "damaged"),
    "lying.pth": (lying_entry, "damaged"),
    "overlapping.pth": (overlapping_entries, "damaged"),
    "between.pth": (lambda: makers.torch_archive(
        makers.pickled({"a": tensor(Stored("0", 4), (4,), (1,))}), {"0": bytes(16)}, align=1), "damaged"),
    "shape.npz": (lambda: of_shape(f"({2**40},)"), "another size than its header says"),
    "negative.npz": (lambda: of_shape("(-2, -2)"), "another size than its header says"),
    "records.npz": (lambda: of_shape("(1,)", "|V16"), "where plain numbers are expected"),
    "dates.npz": (lambda: of_shape("(2,)", "<M8[s]"), "where plain numbers are expected"),
    "header.safetensors": (lambda: makers.safetensors_file({}, length=2**60), UNFIT),
    "size.safetensors": (lambda: told(shape=[2**40]), UNFIT),
    "end.safetensors": (lambda: told(data_offsets=[0, 2**40], shape=[2**38]), UNFIT),
    "gap.safetensors": (lambda: told(data_offsets=[4, 16], shape=[3]), UNFIT),
    "nested.safetensors": (lambda: makers.safetensors_file(b"[" * 10**6), UNFIT),
    "overlap.safetensors": (lambda: makers.safetensors_file(
        {name: {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]} for name in "ab"}, bytes(8)), UNFIT),
    "number.safetensors": (lambda: told(dtype="F6_E2M3"), "numbers that torch does not have"),
    "sparse.pth": (lambda: makers.saved({"a": torch.ones(2).to_sparse()}), "sparse, quantized"),
    "protocol.pth": (lambda: makers.saved({"a": 1}, pickle_protocol=4), "pickle protocol 4"),
    "other.pth": (lambda: makers.archive({"notes.txt": b"nothing to see"}), "not a checkpoint, or is damaged"),
    "text.pth": (lambda: b"dear diary\n" * 50, "not a checkpoint"),
    "empty.pth": (lambda: b"", "is empty"),
    "short.pth": (lambda: weights_as("pth")[:10], "damaged"),
    "short.safetensors": (lambda: weights_as("safetensors")[:10], "cut short"),
    "half.pth": (lambda: half(weights_as("pth")), "cut short or damaged"),
    "half_old.pth": (lambda: half(weights_as("old")), "cut short or damaged"),
    "half.npz": (lambda: half(weights_as("npz")), "cut short or damaged"),
    "half.safetensors": (lambda: half(weights_as("safetensors")), "cut short"),
}  # fmt: skip


def write(folder: Path, name: str) -> Path:
    (folder / name).write_bytes(BOMBS[name][0]())
    return folder / name
