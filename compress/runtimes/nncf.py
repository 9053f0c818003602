"""OpenVINO, with a graph that NNCF quantised: another way to lower an int8 variant. The artifact is an OpenVINO IR.

NNCF takes the float model and decides on its own what becomes int8 (the head and the first product of attention too)
and in which ranges, from the images it is given. Of our int8 it sees the weights before they are rounded, and `rest`.
It works in a process of its own, as OpenVINO does (docs/log.md); its progress bars stay there:

    python -m compress.runtimes.nncf FLOAT.onnx IMAGES.npy TARGET.xml
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino

from compress import files
from compress.runtimes.openvino import Openvino
from compress.runtimes.openvino_graph import read, rest, settings

if TYPE_CHECKING:
    from torch import Tensor

    from baselines.vit import VisionTransformer
    from compress.checkpoint import Checkpoint
    from compress.variant import Variant

if importlib.util.find_spec("nncf") is None:  # importing it takes seconds, and only building needs it
    raise ModuleNotFoundError("No module named 'nncf'")

ROOT = Path(__file__).resolve().parents[2]
BATCHES = (1, 2, 7)  # with which the result is compared with its source, in turns


class Nncf(Openvino):
    name, suffix = "nncf", ".nncf.xml"
    numbers = frozenset({"int8"})
    own_ranges = True

    def build(self, model: VisionTransformer, which: Variant, content: Checkpoint, path: Path, images: Tensor) -> None:
        """See `Runtime.build`.

        Raises:
            RuntimeError: NNCF cannot quantise it.
            ParityError: what it made does not give the images the classes of its source.
        """
        from compress import variant
        from compress.export import INTEGER_AGREEMENT, ParityError, export_onnx
        from compress.integers.calibration import in_float

        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "float.onnx", Path(folder) / "quantised.xml"
            with in_float(model):
                methods = [method for method in which.methods if method.numbers != "int8"]
                export_onnx(variant.convert(model, methods), source, images, content)
            np.save(source.with_suffix(".npy"), images.cpu().numpy())
            found = _quantise(source, source.with_suffix(".npy"), target)
            if not (found["finite"] and found["agreement"] >= INTEGER_AGREEMENT):
                raise ParityError(
                    f"the graph that NNCF quantised disagrees with the model on {len(images)} images (same class on "
                    f"{found['agreement']:.1%}, logits {'' if found['finite'] else 'not '}finite); not written"
                )
            whole = {path.with_suffix(".bin"): target.with_suffix(".bin").read_bytes(), path: target.read_bytes()}
            files.write_together(whole)


def _quantise(source: Path, images: Path, target: Path) -> dict[str, Any]:
    """Has `main` done by another process; what it printed last.

    Raises:
        RuntimeError: it ended otherwise.
    """
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "compress.runtimes.nncf", str(source), str(images), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths})
    if done.returncode:
        last = [line.strip() for line in done.stderr.splitlines() if line.strip()][-1:]
        how = [f"its process was ended by signal {-done.returncode}"] if done.returncode < 0 else last
        raise RuntimeError(": ".join(["NNCF could not quantise it", *how]))
    return json.loads(done.stdout.splitlines()[-1])


def quantise(source: openvino.Model, images: np.ndarray) -> openvino.Model:
    """A float graph -> one with 8-bit levels before its products, ranges set from images (n, C, height, width).

    Convolutions, hence tokenizers, stay in float, as in our own int8. OpenVINO 2026.4.1 computes a quantised one
    wrongly where a ReLU and a second one follow: its bias moves into the ranges of the levels behind it, and the
    logits of a model with such a tokenizer were 12 % off instead of 2.
    """
    import nncf

    return nncf.quantize(
        source,
        nncf.Dataset([image[None] for image in images]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(types=["Convolution"], validate=False),
    )


def describe(model: openvino.Model) -> None:
    """Moves the metadata of the ONNX file to where our own files have them."""
    for name, value in list(model.rt_info["framework"].items()):
        model.set_rt_info(value.astype(str), ["compress", name])
    del model.rt_info["framework"]


def predict(model: openvino.Model, images: np.ndarray) -> np.ndarray:
    """Logits (n, classes), in batches of different sizes."""
    compiled = openvino.Core().compile_model(model, "CPU", settings(1, rest(model)))
    request, logits, start = compiled.create_infer_request(), [], 0
    while start < len(images):
        size = BATCHES[len(logits) % len(BATCHES)]
        request.infer({0: images[start : start + size]})
        logits.append(np.array(request.get_output_tensor(0).data))
        start += size
    return np.concatenate(logits)


def main(source: Path, images: Path, target: Path) -> None:
    """Writes `target` and the file of its weights; prints how it compares with its source."""
    model, batch = read(source), np.load(images)
    expected = predict(model, batch)
    quantised = quantise(model, batch)
    describe(quantised)
    openvino.save_model(quantised, target, compress_to_fp16=False)
    got = predict(read(target), batch)
    agreement = float((got.argmax(1) == expected.argmax(1)).mean())
    print(json.dumps({"agreement": agreement, "finite": bool(np.isfinite(got).all())}))


RUNTIME = Nncf()

if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
