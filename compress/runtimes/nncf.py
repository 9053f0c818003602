"""OpenVINO, with a graph that NNCF quantized: another way to lower an int8 variant. The artifact is an OpenVINO IR.

NNCF takes the float model and decides on its own what becomes int8 (the head and the first product of attention too)
and in which ranges, from the images it is given. Of our int8 it sees the weights before they are rounded, and the
fallback dtype; of other architectures it sees `skip` too.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.runtimes.openvino import Openvino

if TYPE_CHECKING:
    from compress.runtimes.base import BuildInputs


class Nncf(Openvino):
    name, packages, extra = "nncf", ("nncf", "openvino"), "nncf"
    suffix = ".nncf.xml"
    dtypes = frozenset({"int8"})
    calibrates_itself = quantizes = True

    def build(self, inputs: BuildInputs, path: Path) -> None:
        """See `Runtime.build`.

        Raises:
            RuntimeError: NNCF cannot quantize it.
            ParityError: what it made does not give the images the classes of its source.
        """
        import numpy as np
        import onnx

        from compress import variant
        from compress.checkpoints.user_models import Wrapped
        from compress.exporters.onnx import INTEGER_AGREEMENT, INTEGER_TOLERANCE, ParityError, export_onnx
        from compress.exporters.operators import find_products
        from compress.methods import Int8
        from compress.quantization.calibration import rounding_off
        from compress.runtimes.openvino_export import move_pair

        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "float.onnx", Path(folder) / "quantized.xml"
            with rounding_off(inputs.model):
                methods = [method for method in inputs.which.methods if method.dtype != "int8"]
                export_onnx(variant.convert(inputs.model, methods), source, inputs.images, inputs.content)
            if isinstance(inputs.model, Wrapped):
                method = inputs.which.methods[-1]
                assert isinstance(method, Int8)
                left = find_products(onnx.load(source), inputs.model.module, method.skip)
                source.with_suffix(".json").write_text(json.dumps(left))
            np.save(source.with_suffix(".npy"), inputs.images.cpu().numpy())
            result = _quantize(source, source.with_suffix(".npy"), target)
            same = result["agreement"] >= INTEGER_AGREEMENT or result["difference"] <= INTEGER_TOLERANCE
            if not (result["finite"] and same):
                raise ParityError(
                    f"the graph that NNCF quantized disagrees with the model on {len(inputs.images)} images (same "
                    f"class on {result['agreement']:.1%}, logits "
                    f"{'' if result['finite'] else 'not '}finite); not written"
                )
            move_pair(target, path)


def _quantize(source: Path, images: Path, target: Path) -> dict[str, Any]:
    """Has `nncf_quantize.py` write `target`; what it says of the result.

    Raises:
        RuntimeError: NNCF could not.
    """
    import torch

    from compress.runtimes.client import run_module

    try:
        module, threads = "compress.runtimes.nncf_quantize", torch.get_num_threads()
        return json.loads(run_module(module, source, images, target, threads, environment=Nncf.environment))
    except RuntimeError as error:
        raise RuntimeError(f"NNCF could not quantize it: {error}") from error
