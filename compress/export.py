"""A model -> one ONNX file, checked against its source on real images before it appears."""

import copy
import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from baselines.errors import InputError
from baselines.vit import Attention, Encoder, VisionTransformer
from compress import files, graph, variant
from compress.checkpoint import Checkpoint

OPSET = 20
PARITY_BATCHES = (1, 2, 7)
FLOAT_TOLERANCE = 1e-3  # of the largest logit
INTEGER_AGREEMENT = 0.95  # integer kernels round on their own; the class must survive it
CHOOSING_SHARE = 0.5  # of the images, where a model chooses tokens: a tie that rounding decides changes the logits


class ParityError(RuntimeError):
    """The exported graph does not compute what the model does; no file was written."""


@dataclass(frozen=True)
class Parity:
    """How an exported graph compares with its source, over batches of 1, 2 and 7 real images."""

    n_images: int
    max_difference: float  # of logits, relative to the largest logit
    agreement: float  # share of images given the same class
    close: float  # share of images whose logits differ by no more than float rounding


def export_onnx(model: VisionTransformer, path: Path, images: Tensor, content: Checkpoint) -> Parity:
    """Writes `model` as ONNX with a free batch size and its weights inside the file.

    Args:
        images: normalised real images (n, C, height, width), n >= 10, for tracing and for the parity check.
        content: where the model comes from; class names and normalisation travel in the file's metadata.

    Raises:
        ParityError: the graph disagrees with the model.
        InputError: the file cannot be written.
    """
    model = copy.deepcopy(model).cpu().eval()
    proto = trace(model, images[:2].cpu())
    describe(proto, content)
    if has_integers(proto):
        graph.halve(proto)
    onnx.checker.check_model(proto)
    serialised = proto.SerializeToString()
    parity = check_parity(model, serialised, images.cpu(), integer=has_integers(proto))
    files.write(path, serialised)
    return parity


def shipped(model: VisionTransformer, which: variant.Variant, content: Checkpoint) -> VisionTransformer:
    """The converted model that becomes ONNX: in float32 where it was bf16, since engines do that rounding themselves.

    Raises:
        InputError: it is fp8, which no ONNX engine multiplies here.
    """
    if which.numbers == "fp8":
        raise InputError(f"{which.name!r} runs in torch alone, on GPUs; export the same model in another precision")
    methods = [method for method in which.methods if method.numbers != "bf16"]
    if len(methods) < len(which.methods):
        model = variant.prepare(VisionTransformer(content.config), methods)
        model = variant.convert(model, methods) if content.converted else model
        model.load_state_dict({name: value.float() for name, value in content.state.items()})
    return model.eval() if content.converted else variant.convert(model, methods)


def trace(model: VisionTransformer, images: Tensor) -> onnx.ModelProto:
    """The graph of `model`; attention spelled out, since the fused kernel refuses shapes that depend on data."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused = False
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=65536)}},
            input_names=["images"],
            output_names=["logits"],
            opset_version=OPSET,
            external_data=False,
            custom_translation_table=graph.translations(),
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def describe(proto: onnx.ModelProto, content: Checkpoint) -> None:
    """Adds what a user of the file needs; removes the exporter's notes, which hold paths of this machine."""
    del proto.graph.value_info[:]  # stale shapes; ONNX Runtime's own tools stumble over them
    for node in proto.graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:], proto.metadata_props[:], proto.functions[:]
    facts = {
        "classes": content.classes,
        "mean": content.mean,
        "std": content.std,
        "dataset": content.dataset,
        "methods": content.methods,
        "rest": rest(content),
        "calibration": content.calibration,
        "image_size": content.config.image_size,
    }
    onnx.helper.set_model_props(proto, {name: json.dumps(value) for name, value in facts.items()})
    proto.producer_name, proto.graph.name = "compress", "vit"


def rest(content: Checkpoint) -> str:
    """In which numbers an engine may compute whatever is not in integers: fp32 or bf16."""
    settings = dict(content.methods[-1]) if content.methods else {}
    return variant.make_method(str(settings.pop("name")), settings).numbers_around() if settings else "fp32"


def check_parity(model: VisionTransformer, serialised: bytes, images: Tensor, *, integer: bool) -> Parity:
    """Runs graph and model on the same images.

    Raises:
        ParityError: they disagree.
    """
    import onnxruntime  # only now: the rest of the product works without it

    session = onnxruntime.InferenceSession(serialised, providers=["CPUExecutionProvider"])
    got, expected, start = [], [], 0
    sizes = [*PARITY_BATCHES]
    while sum(sizes) + PARITY_BATCHES[-1] <= len(images):
        sizes.append(PARITY_BATCHES[-1])
    with torch.inference_mode():
        for size in sizes:
            batch = images[start : start + size]
            got.append(session.run(None, {"images": batch.numpy()})[0])
            expected.append(model(batch).numpy())
            start += size
    a, b = np.concatenate(got), np.concatenate(expected)
    differences = np.abs(a - b).max(1) / np.abs(b).max()
    parity = Parity(
        n_images=len(a),
        max_difference=float(differences.max()),
        agreement=float((a.argmax(1) == b.argmax(1)).mean()),
        close=float((differences <= FLOAT_TOLERANCE).mean()),
    )
    chooses = type(model.encoder) is not Encoder
    enough = CHOOSING_SHARE if chooses else 1.0
    good = parity.close == 1 or (parity.agreement >= INTEGER_AGREEMENT and (integer or parity.close >= enough))
    if not (good and np.isfinite(a).all()):
        raise ParityError(
            f"the exported graph disagrees with the model on {len(a)} images (largest difference "
            f"{parity.max_difference:.2%} of the largest logit, same class on {parity.agreement:.1%}); not written"
        )
    return parity


def has_integers(proto: onnx.ModelProto) -> bool:
    return any(node.op_type in ("QuantizeLinear", "MatMulInteger", "MatMulNBits") for node in proto.graph.node)
