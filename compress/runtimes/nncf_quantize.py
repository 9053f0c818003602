"""Has NNCF quantize a graph, in a process of its own as OpenVINO does (docs/log.md); its progress bars stay there:

python -m compress.runtimes.nncf_quantize FLOAT.onnx IMAGES.npy TARGET.xml THREADS
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import nncf
import numpy as np
import openvino
from nncf.quantization.range_estimator import RangeEstimatorParametersSet

from compress.runtimes.openvino_graph import compile_model, move_metadata, read_model

BATCHES = (1, 2, 7)  # with which the result is compared with its source, in turns


def quantize_graph(source: openvino.Model, images: np.ndarray, left: Sequence[str] | None = None) -> openvino.Model:
    """A float graph -> one with 8-bit levels before its products, ranges set from images (n, C, height, width).

    Args:
        left: of another architecture than ours: names of its products that stay in float.

    Of a Vision Transformer convolutions, hence tokenizers, stay in float, as in our own int8. OpenVINO 2026.4.1
    computes a quantized one wrongly where a ReLU and a second one follow: its bias moves into the ranges of the levels
    behind it, and the logits of a model with such a tokenizer were 12 % off instead of 2.
    """
    if left is not None:
        return _quantize_foreign(source, images, left)
    return nncf.quantize(
        source,
        nncf.Dataset([image[None] for image in images]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(types=["Convolution"], validate=False),
    )


def _quantize_foreign(source: openvino.Model, images: np.ndarray, left: Sequence[str]) -> openvino.Model:
    """The same for an architecture of which nothing is known.

    Ranges go from the least to the greatest value that was seen, with a zero point where values have both signs. NNCF's
    own, means over the images, cut off so much that a ResNet-18 had 26 dB instead of 36. Nor is NNCF told of a
    transformer, since it would smooth activations: PVT v2-b0 had 19 dB then instead of 35.
    """
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


def compute_logits(model: openvino.Model, images: np.ndarray, threads: int) -> np.ndarray:
    """Logits (n, classes), in batches of different sizes."""
    request, logits, start = compile_model(model, threads).create_infer_request(), [], 0
    while start < len(images):
        size = BATCHES[len(logits) % len(BATCHES)]
        request.infer({0: images[start : start + size]})
        logits.append(np.array(request.get_output_tensor(0).data))
        start += size
    return np.concatenate(logits)


def main(source: Path, images: Path, target: Path, threads: int) -> None:
    """Writes `target` and the file of its weights; prints how it compares with its source."""
    model, batch, names = read_model(source), np.load(images), source.with_suffix(".json")
    expected = compute_logits(model, batch, threads)
    quantized = quantize_graph(model, batch, json.loads(names.read_text()) if names.is_file() else None)
    move_metadata(quantized)
    openvino.save_model(quantized, target, compress_to_fp16=False)
    got = compute_logits(read_model(target), batch, threads)
    agreement = float((got.argmax(1) == expected.argmax(1)).mean())
    difference = float(np.abs(got - expected).max() / np.abs(expected).max())
    print(json.dumps({"agreement": agreement, "difference": difference, "finite": bool(np.isfinite(got).all())}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
