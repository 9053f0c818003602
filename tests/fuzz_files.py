"""Damages small files at random, the same way for the same number, and reads them. Not a test.

python tests/fuzz_files.py FOLDER START STOP

The number of each file is printed before it is read, so that whoever waits knows which one ended the process.
"""

import faulthandler
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random as Chance
from typing import Any

import hostile_files as makers
import safetensors.torch
from damage import damage, ends, facts, header, inside, steps, text, tree

from baselines.errors import InputError
from compress import loading
from compress.checkpoints import graph_files
from compress.importers import Hints

PATIENCE_S = 20  # for one file, before it counts as one that hangs
MEMORY = 2 * 2**30  # bytes that the process may take beside what it has
GROWTH = 200 * 2**20  # ... of which it may use as much for a file of a few thousand bytes
SENTENCE = 1000  # letters of the longest

Way = Callable[[Chance, bytes], bytes]
Read = Callable[[Path], Any]


def load(path: Path) -> None:
    loading.restore(path, Hints(heads=2))


def formats(folder: Path) -> list[tuple[Path, bytes, Sequence[Way], Read]]:
    """Where a file lies, what it holds, how it is damaged, how it is read; whatever lies beside it is put there."""
    state = makers.timm()
    own, safe = (makers.own(folder / f"whole.{suffix}").read_bytes() for suffix in ("pth", "safetensors"))
    small = makers.quantized(folder / "whole.pth").read_bytes()
    said = makers.folder(folder / "hf") / "config.json"
    (folder / "weights.data").write_bytes(bytes(64))
    (folder / "graph.bin").write_bytes(bytes(64))
    pickle = inside("data.pkl", damage, steps, steps)
    return [
        (folder / "own.pth", own, (damage, ends, pickle, facts, facts), load),
        (folder / "int8.pth", small, (damage, facts, facts), load),
        (folder / "own.safetensors", safe, (damage, ends, header, header), load),
        (folder / "timm.pth", makers.saved(makers.training(state)), (damage, ends, pickle, pickle, facts), load),
        (folder / "legacy.pth", makers.legacy({"model": state}), (damage, ends, tree, tree), load),
        (folder / "timm.safetensors", safetensors.torch.save(state), (damage, ends, header), load),
        (folder / "timm.npz", makers.arrays(), (damage, ends, inside(".npy", ends, damage)), load),
        (said, said.read_bytes(), (damage, text, text), lambda path: load(path.parent)),
        (folder / "graph.onnx", makers.graph(), (damage,), graph_files.check_onnx),
        (folder / "graph.xml", makers.XML, (damage,), graph_files.check_xml),
    ]


def attempt(number: int, files: Sequence[tuple[Path, bytes, Sequence[Way], Read]]) -> str:
    """Damages and reads one file; gives `read` or `refused`, or what went wrong."""
    chance = Chance(number)
    path, whole, ways, read = files[number % len(files)]
    way = chance.choice(ways)
    path.write_bytes(raw := way(chance, whole))
    try:
        read(path)
        return "read" if raw != whole else "whole"
    except InputError as error:
        sentence, cause = str(error), error.__cause__
        if isinstance(cause, MemoryError) or "allocate" in str(cause):
            return f"it asked for more memory: {cause}"
        named = any(name in sentence for name in (path.name, str(path.parent)))
        return "refused" if named and len(sentence) < SENTENCE else f"a poor sentence: {sentence[:2000]}"
    except BaseException:
        return traceback.format_exc()


def main(folder: Path, start: int, stop: int) -> None:
    faulthandler.enable()
    files = formats(folder)
    for path, whole, _, read in files:  # so that whatever is imported late is here, and the files are good
        path.write_bytes(whole)
        read(path)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for number in range(start, stop):
        os.write(1, b"%d " % number)
        signal.alarm(PATIENCE_S)
        before = peak()
        found = attempt(number, files)
        if peak() > before + GROWTH:
            found = f"{peak() - before:,} bytes of memory"
        os.write(1, found.encode(errors="replace").replace(b"\n", b"\\n") + b"\n")


def peak() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
