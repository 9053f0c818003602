"""A model -> OpenVINO's own two files, checked against it on real images before they appear.

OpenVINO makes them of the ONNX file, in a process of its own as everywhere (docs/log.md):

    python -m compress.runtimes.openvino_file SOURCE.onnx TARGET.xml
"""

from __future__ import annotations

import copy
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from baselines.errors import InputError
from compress import files
from compress.runtimes.workers import ROOT, Worker

if TYPE_CHECKING:
    from torch import Tensor

    from baselines.classifier import Classifier
    from compress.checkpoints.checkpoint import Checkpoint
    from compress.export.onnx import Parity


def write_openvino(model: Classifier, path: Path, images: Tensor, content: Checkpoint, threads: int) -> Parity:
    """Writes `path`, which ends in .xml, and its weights beside it; see `export_onnx`.

    Raises:
        ParityError: OpenVINO does not take the model, or computes something else.
        InputError: the files cannot be written.
    """
    import onnx

    from compress.export.onnx import ParityError, compare, export_onnx, has_integers, rest

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / "model.xml"
        export_onnx(model, source, images, content)
        rounds = has_integers(onnx.load(source)) or rest(content) == "bf16"
        try:
            apart("compress.runtimes.openvino_file", source, target)
            with Worker.of("openvino", target, "cpu", threads) as worker:
                worker.ready()
                parity = compare(copy.deepcopy(model).cpu().eval(), worker.logits, images.cpu(), integer=rounds)
        except ParityError:
            raise
        except RuntimeError as error:
            raise ParityError(f"OpenVINO does not take the model ({error}); not written") from error
        files.write_together({path.with_suffix(".bin"): target.with_suffix(".bin").read_bytes(),
                              path: target.read_bytes()})  # fmt: skip
    return parity


def check_installed() -> None:
    """Raises InputError where OpenVINO is not; asked before the work begins."""
    if importlib.util.find_spec("openvino") is None:
        raise InputError("--to openvino needs the package openvino; install it with: pip install openvino")


def apart(module: str, *args: Path) -> str:
    """Runs a module in a process of its own; the last line that it printed.

    Raises:
        RuntimeError: it did not end well; the last line of what it said.
    """
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command, environment = [sys.executable, "-m", module, *map(str, args)], {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = [line.strip() for line in done.stderr.splitlines() if line.strip()][-1:]
        raise RuntimeError(
            f"its process was ended by signal {-done.returncode}" if done.returncode < 0 else "".join(last)
        )
    return done.stdout.splitlines()[-1] if done.stdout else ""


def main(source: Path, target: Path) -> None:
    import openvino

    from compress.runtimes.openvino_graph import describe, read

    model = read(source)
    describe(model)
    openvino.save_model(model, target, compress_to_fp16=False)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
