"""OpenVINO, with a graph that NNCF quantised: another way to lower an int8 variant. The artifact is an OpenVINO IR.

NNCF takes the float model and decides on its own what becomes int8 (the head and the first product of attention too)
and in which ranges, from the images it is given. Of our int8 it sees the weights before they are rounded, and `rest`;
of other architectures it sees `skip` too.
It works in a process of its own, as OpenVINO does (docs/log.md); its progress bars stay there:

    python -m compress.runtimes.nncf FLOAT.onnx IMAGES.npy TARGET.xml
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino

from compress import files
from compress.runtimes.openvino import Openvino
from compress.runtimes.openvino_file import apart
from compress.runtimes.openvino_graph import describe, read, rest, settings

if TYPE_CHECKING:
    from torch import Tensor

    from baselines.classifier import Classifier
    from compress.checkpoints.checkpoint import Checkpoint
    from compress.variant import Variant

if importlib.util.find_spec("nncf") is None:  # importing it takes seconds, and only building needs it
    raise ModuleNotFoundError("No module named 'nncf'")

BATCHES = (1, 2, 7)  # with which the result is compared with its source, in turns


class Nncf(Openvino):
    name, suffix = "nncf", ".nncf.xml"
    numbers = frozenset({"int8"})
    own_ranges = quantises = True

    def build(
        self,
        model: Classifier,
        which: Variant,
        content: Checkpoint,
        path: Path,
        images: Tensor,
        calibration: Sequence[Tensor] = (),
    ) -> None:
        """See `Runtime.build`.

        Raises:
            RuntimeError: NNCF cannot quantise it.
            ParityError: what it made does not give the images the classes of its source.
        """
        import onnx

        from compress import variant
        from compress.checkpoints.modules import Wrapped
        from compress.export import operators as graph
        from compress.export.onnx import INTEGER_AGREEMENT, INTEGER_TOLERANCE, ParityError, export_onnx
        from compress.methods import Int8
        from compress.quantization.calibration import in_float

        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "float.onnx", Path(folder) / "quantised.xml"
            with in_float(model):
                methods = [method for method in which.methods if method.numbers != "int8"]
                export_onnx(variant.convert(model, methods), source, images, content)
            if isinstance(model, Wrapped):
                method = which.methods[-1]
                assert isinstance(method, Int8)
                left = graph.products_left(onnx.load(source), model.module, method.skip)
                source.with_suffix(".json").write_text(json.dumps(left))
            np.save(source.with_suffix(".npy"), images.cpu().numpy())
            found = _quantise(source, source.with_suffix(".npy"), target)
            same = found["agreement"] >= INTEGER_AGREEMENT or found["difference"] <= INTEGER_TOLERANCE
            if not (found["finite"] and same):
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
    try:
        return json.loads(apart("compress.runtimes.nncf", source, images, target))
    except RuntimeError as error:
        raise RuntimeError(f"NNCF could not quantise it: {error}") from error


def quantise(source: openvino.Model, images: np.ndarray, left: Sequence[str] | None = None) -> openvino.Model:
    """A float graph -> one with 8-bit levels before its products, ranges set from images (n, C, height, width).

    Args:
        left: of another architecture than ours: names of its products that stay in float.

    Of a Vision Transformer convolutions, hence tokenizers, stay in float, as in our own int8. OpenVINO 2026.4.1
    computes a quantised one wrongly where a ReLU and a second one follow: its bias moves into the ranges of the levels
    behind it, and the logits of a model with such a tokenizer were 12 % off instead of 2.
    """
    import nncf

    if left is not None:
        return _quantise_any(source, images, left)
    return nncf.quantize(
        source,
        nncf.Dataset([image[None] for image in images]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(types=["Convolution"], validate=False),
    )


def _quantise_any(source: openvino.Model, images: np.ndarray, left: Sequence[str]) -> openvino.Model:
    """The same for an architecture of which nothing is known.

    Ranges go from the least to the greatest value that was seen, with a zero point where values have both signs. NNCF's
    own, means over the images, cut off so much that a ResNet-18 had 26 dB instead of 36. Nor is NNCF told of a
    transformer, since it would smooth activations: PVT v2-b0 had 19 dB then instead of 35.
    """
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    names = [f"{name}{end}" for name in left for end in ("", "/WithoutBiases")]  # as OpenVINO calls those with a bias
    ranges = nncf.AdvancedQuantizationParameters(activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX)
    return nncf.quantize(
        source,
        nncf.Dataset([image[None] for image in images]),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(names=names, validate=False) if names else None,
        advanced_parameters=ranges,
    )


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
    model, batch, names = read(source), np.load(images), source.with_suffix(".json")
    expected = predict(model, batch)
    quantised = quantise(model, batch, json.loads(names.read_text()) if names.is_file() else None)
    describe(quantised)
    openvino.save_model(quantised, target, compress_to_fp16=False)
    got = predict(read(target), batch)
    agreement = float((got.argmax(1) == expected.argmax(1)).mean())
    difference = float(np.abs(got - expected).max() / np.abs(expected).max())
    print(json.dumps({"agreement": agreement, "difference": difference, "finite": bool(np.isfinite(got).all())}))


RUNTIME = Nncf()

if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
