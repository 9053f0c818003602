"""A model -> OpenVINO's own two files, checked against it on real images before they appear.

OpenVINO makes them of the ONNX file, in a process of its own as everywhere (docs/log.md):

    python -m compress.runtimes.openvino_export SOURCE TARGET.xml [BATCH_SIZE]
"""

from __future__ import annotations

import copy
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from compress import files, runtimes
from compress.runtimes.client import Worker, run_module

if TYPE_CHECKING:
    from torch import Tensor

    from baselines.classifier import Classifier
    from compress.checkpoints.checkpoint import Checkpoint
    from compress.exporters.onnx import Parity


def write_openvino(
    model: Classifier, path: Path, images: Tensor, content: Checkpoint, threads: int, batch_size: int | None = None
) -> Parity:
    """Writes `path`, which ends in .xml, and its weights beside it; see `export_onnx`.

    Raises:
        ParityError: OpenVINO does not take the model, or computes something else.
        InputError: the files cannot be written.
    """
    import onnx

    from compress.exporters.onnx import ParityError, compare_logits, export_onnx, find_fallback_dtype, has_integers

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / "model.xml"
        export_onnx(model, source, images, content, batch_size)
        rounds = has_integers(onnx.load(source, load_external_data=False)) or find_fallback_dtype(content) == "bf16"
        try:
            convert_file(source, target)
            with Worker.start("openvino", target, "cpu", threads, batch_size) as worker:
                worker.ready()
                ours = copy.deepcopy(model).cpu().eval()
                parity = compare_logits(ours, worker.logits, images.cpu(), integer=rounds, batch_size=batch_size)
        except ParityError:
            raise
        except RuntimeError as error:
            raise ParityError(f"OpenVINO does not take the model ({error}); not written") from error
        move_pair(target, path)
    return parity


def convert_file(source: Path, target: Path, batch_size: int | None = None) -> None:
    """Writes a graph, of ONNX or OpenVINO's own, as OpenVINO's own.

    Args:
        batch_size: to which it is fixed; None: as it is.

    Raises:
        RuntimeError: OpenVINO does not take it.
    """
    sizes = [] if batch_size is None else [batch_size]
    environment = runtimes.describe("openvino").environment
    run_module("compress.runtimes.openvino_export", source, target, *sizes, environment=environment)


def move_pair(source: Path, target: Path) -> None:
    """Writes what an .xml file and the .bin file beside it hold to another place, both or none."""
    pair = {target.with_suffix(".bin"): source.with_suffix(".bin"), target: source}
    files.write_together({to: each.read_bytes() for to, each in pair.items()})


def main(source: Path, target: Path, batch_size: int | None) -> None:
    import openvino

    from compress.runtimes.openvino_graph import move_metadata, read_model

    model = read_model(source, batch_size)
    move_metadata(model)
    openvino.save_model(model, target, compress_to_fp16=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else None)
