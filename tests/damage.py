"""Ways to damage a file at random: its bytes, the steps of a pickle inside of it, its JSON, or what it says.

Not a test.
"""

import argparse
import copy
import io
import itertools
import json
import pickletools
import struct
import zipfile
from collections.abc import Callable
from random import Random as Chance

import hostile_files as makers
import torch

WHOLE = [0, 1, -1, 2, 7, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**48, 2**63 - 1]
ODD = [None, True, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "x" * 3000, "\x1b[2J", "\udcff", [], [1, 2]]
VALUES = [*WHOLE, *ODD, [[[]]], {}, {"a": {"b": []}}, 10**400, ["vit"], [3, 8, 8], {"0": "cat"}, (8, 8)]
GLOBALS = """os system, builtins eval, builtins bytearray, builtins set, argparse Namespace, _codecs encode,
collections OrderedDict, collections Counter, torch FloatStorage, torch ByteStorage, torch.storage UntypedStorage,
torch Size, torch Tensor, torch device, torch float64, torch qint8, torch.nn.parameter Parameter,
torch._utils _rebuild_tensor, torch._utils _rebuild_tensor_v2, torch._utils _rebuild_tensor_v3,
torch._utils _rebuild_parameter, torch._utils _rebuild_sparse_tensor""".replace("\n", " ").split(", ")


def damage(chance: Chance, raw: bytes, low: int = 0, high: int | None = None) -> bytes:
    """Some bytes between `low` and `high` are changed, lost, added or repeated."""
    high = len(raw) if high is None else min(high, len(raw))
    out = bytearray(raw)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        at = chance.randrange(min(low, len(out)), max(min(high, len(out)), 1) + 1)
        span = chance.choice((1, 2, 4, 8, 30, 200))
        match chance.randrange(7):
            case 0 if at < len(out):
                out[at] ^= 1 << chance.randrange(8)
            case 1:
                out[at : at + span] = chance.choice((b"\0", b"\xff", b"\x7f", b"P")) * len(out[at : at + span])
            case 2:
                out[at : at + span] = chance.randbytes(len(out[at : at + span]))
            case 3:
                size = chance.choice((1, 2, 4, 8))
                out[at : at + size] = (chance.choice(WHOLE) % 2 ** (8 * size)).to_bytes(size, "little")
            case 4:
                out[at:at] = chance.randbytes(span)
            case 5:
                out[at:at] = out[chance.randrange(len(out) + 1) :][:span]
            case _:
                del out[at : at + span]
    return bytes(out) if chance.random() > 0.1 else bytes(out[: chance.randrange(len(out) + 1)])


def ends(chance: Chance, raw: bytes) -> bytes:
    """The header, or the directory that ends an archive."""
    return damage(chance, raw, 0, 128) if chance.random() < 0.5 else damage(chance, raw, max(len(raw) - 600, 0))


def steps(chance: Chance, raw: bytes) -> bytes:
    """A pickle whose steps are lost, repeated, moved, or of other values."""
    places = [place or 0 for _, _, place in pickletools.genops(raw)] + [len(raw)]
    parts = [raw[first:last] for first, last in itertools.pairwise(places)]
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(parts)) if parts else 0
        match chance.randrange(6):
            case _ if not parts:
                break
            case 0:
                del parts[at]
            case 1:
                parts.insert(chance.randrange(len(parts) + 1), parts[at])
            case 2:
                parts.insert(at, chance.choice((b"N", b"}", b"]", b")", b"(", b"t", b"R", b"b", b"Q", b"\x81", b"0")))
            case 3:
                parts[at] = b"c" + chance.choice(GLOBALS).replace(" ", "\n").encode() + b"\n"
            case 4:
                numbers = [index for index, part in enumerate(parts) if part[:1] in (b"K", b"M", b"J")] or [at]
                size = chance.choice((1, 4, 8, 9))
                value = (chance.choice(WHOLE) % 2 ** (8 * size)).to_bytes(size, "little")
                parts[chance.choice(numbers)] = b"\x8a" + bytes([size]) + value
            case _:
                parts[at] = b"h" + bytes([chance.randrange(60)])
    return b"".join(parts)


def inside(name: str, *changes: Callable[[Chance, bytes], bytes]) -> Callable[[Chance, bytes], bytes]:
    """One entry of an archive, whose checksum is right afterwards: the first that ends in `name`."""

    def change(chance: Chance, raw: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            entries = {each: archive.read(each) for each in archive.namelist()}
        target = next(each for each in entries if each.endswith(name))
        entries[target] = chance.choice(changes)(chance, entries[target])
        return makers.archive(entries)

    return change


def tree(chance: Chance, raw: bytes) -> bytes:
    """The fourth pickle of a file that torch wrote before 1.6."""
    stream = io.BytesIO(raw)
    ends = [sum(1 for _ in pickletools.genops(stream)) and stream.tell() for _ in range(4)]
    return raw[: ends[2]] + chance.choice((damage, steps))(chance, raw[ends[2] : ends[3]]) + raw[ends[3] :]


def text(chance: Chance, raw: bytes) -> bytes:
    """JSON with another value somewhere, or one less, or twice as deep."""
    content = json.loads(raw)
    for _ in range(chance.choice((1, 1, 2, 3))):
        place = content
        while isinstance(place, dict | list) and place:
            key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[key], dict | list) or chance.random() < 0.4:
                break
            place = place[key]
        else:
            continue
        if chance.random() < 0.2:
            del place[key]
        else:
            place[key] = copy.deepcopy(chance.choice(VALUES))
    return json.dumps(content).encode()


def header(chance: Chance, raw: bytes) -> bytes:
    """The header of a safetensors file, of its new length."""
    length = struct.unpack("<Q", raw[:8])[0]
    return makers.safetensors_file(text(chance, raw[8 : 8 + length]), raw[8 + length :])


def facts(chance: Chance, raw: bytes) -> bytes:
    """What a file says, saved whole: a value of another kind, a weight of another shape, missing, or one more."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(io.BytesIO(raw), weights_only=True)
    for _ in range(chance.choice((1, 1, 2))):
        place = content
        while True:
            key = chance.choice(list(place)) if place else ""
            inner = place.get(key)
            if not isinstance(inner, dict) or chance.random() < 0.2:
                break
            place = inner
        match chance.randrange(5):
            case 0:
                place.pop(key, None)
            case 1:
                place[chance.choice((*VALUES[:14], "head.weight", "norm.bias", "state", "config"))] = inner
            case 2 if isinstance(inner, torch.Tensor):
                shape = [chance.choice((0, 1, 2, 3, 5, 8, 24)) for _ in range(chance.randrange(5))]
                kinds = (torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn)
                place[key] = torch.zeros(shape).to(chance.choice(kinds))
            case 3 if isinstance(inner, torch.Tensor) and inner.is_floating_point() and inner.numel():
                place[key] = inner.flatten().index_fill(0, torch.tensor([0]), chance.choice((torch.nan, torch.inf)))
            case _:
                place[key] = copy.deepcopy(chance.choice(VALUES))
    return makers.saved(content)
