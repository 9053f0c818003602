"""A model -> one ONNX file, checked against its source on real images before it appears."""

import copy
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from baselines.classifier import Classifier
from baselines.errors import InputError
from baselines.vit import Attention, Encoder, VisionTransformer
from compress import files, variant
from compress.checkpoints import modules
from compress.checkpoints.checkpoint import Checkpoint
from compress.export import operators as graph

OPSET = 20
PARITY_BATCHES = (1, 2, 7)
FLOAT_TOLERANCE = 1e-3  # of the largest logit
INTEGER_AGREEMENT = 0.95  # integer kernels round on their own; the class must survive it
INTEGER_TOLERANCE = 0.05  # of the largest logit: where none moved farther, classes that changed were ties
CHOOSING_SHARE = 0.5  # of the images, where a model chooses tokens: a tie that rounding decides changes the logits


class ParityError(RuntimeError):
    """No file was written: the exported graph does not compute what the model does, or there is no such graph."""


@dataclass(frozen=True)
class Parity:
    """How an exported graph compares with its source, over batches of 1, 2 and 7 real images."""

    n_images: int
    max_difference: float  # of logits, relative to the largest logit
    agreement: float  # share of images given the same class
    close: float  # share of images whose logits differ by no more than float rounding


def export_onnx(model: Classifier, path: Path, images: Tensor, content: Checkpoint) -> Parity:
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


def shipped(model: Classifier, which: variant.Variant, content: Checkpoint) -> Classifier:
    """The converted model that becomes ONNX: in float32 where it was bf16, since engines do that rounding themselves.

    Raises:
        InputError: it is fp8, which no ONNX engine multiplies here.
    """
    if which.numbers == "fp8":
        raise InputError(f"{which.name!r} runs in torch alone, on GPUs; export the same model in another precision")
    methods = [method for method in which.methods if method.numbers != "bf16"]
    if len(methods) < len(which.methods):
        added = [method for method in methods if not method.from_scratch]  # `config` is what they made already
        model = variant.prepare(modules.blank(content.config), added)
        model = variant.convert(model, methods) if content.converted else model
        model.load_state_dict({name: value.float() for name, value in content.state.items()})
    return model.eval() if content.converted else variant.convert(model, methods)


def trace(model: Classifier, images: Tensor) -> onnx.ModelProto:
    """The graph of `model`; attention spelled out, since the fused kernel refuses shapes that depend on data.

    Raises:
        ParityError: torch cannot export a model of the user's code.
    """
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused = False
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
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
        except Exception as error:  # torch raises many kinds, and the user's code may raise others
            if not isinstance(model.config, modules.ModuleConfig):
                raise
            fault = str(error.__cause__ or error).strip().splitlines()[0]
            raise ParityError(f"torch cannot export {model.config.factory} with a free batch size ({fault})") from error
    assert program is not None
    return program.model_proto


def describe(proto: onnx.ModelProto, content: Checkpoint) -> None:
    """Adds what a user of the file needs; removes the exporter's notes, which hold paths of this machine.

    Metadata, each as JSON; those of an OpenVINO file stand in its `rt_info`, under `compress`:

        model       what its baseline is called
        classes     names, in the order of the logits
        mean, std   of each channel, of pixels in [0, 1]; hence also how many channels there are
        image_size  height, width in pixels
        dataset     on which it was trained
        methods     what was done to it, in order, with all settings
        rest        numbers in which an engine may compute whatever is not in integers: fp32 or bf16
        calibration how many training images set its ranges, and a hash of them; null where none did
    """
    del proto.graph.value_info[:]  # stale shapes; ONNX Runtime's own tools stumble over them
    for node in proto.graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:], proto.metadata_props[:], proto.functions[:]
    name = variant.base_of(content.config)
    facts = {
        "model": name,
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
    proto.producer_name, proto.graph.name = "compress", name


def rest(content: Checkpoint) -> str:
    """In which numbers an engine may compute whatever is not in integers: fp32 or bf16."""
    settings = dict(content.methods[-1]) if content.methods else {}
    return variant.make_method(str(settings.pop("name")), settings).numbers_around() if settings else "fp32"


def check_parity(model: Classifier, serialised: bytes, images: Tensor, *, integer: bool) -> Parity:
    """Runs graph, in ONNX Runtime, and model on the same images.

    Raises:
        ParityError: they disagree.
    """
    import onnxruntime  # only now: the rest of the product works without it

    session = onnxruntime.InferenceSession(serialised, providers=["CPUExecutionProvider"])
    return compare(model, lambda batch: np.asarray(session.run(None, {"images": batch})[0]), images, integer=integer)


def compare(model: Classifier, run: Callable[[np.ndarray], np.ndarray], images: Tensor, *, integer: bool) -> Parity:
    """Gives a model, and what was made of it, the same images.

    Args:
        run: images (B, C, height, width) -> logits (B, classes), in an engine.
        integer: whether integers are multiplied there.

    Raises:
        ParityError: they disagree.
    """
    got, expected, start = [], [], 0
    sizes = [*PARITY_BATCHES]
    while sum(sizes) + PARITY_BATCHES[-1] <= len(images):
        sizes.append(PARITY_BATCHES[-1])
    with torch.inference_mode():
        for size in sizes:
            batch = images[start : start + size]
            got.append(run(batch.numpy()))
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
    chooses = isinstance(model, VisionTransformer) and type(model.encoder) is not Encoder
    enough = CHOOSING_SHARE if chooses else 1.0
    same = parity.agreement >= INTEGER_AGREEMENT or (integer and parity.max_difference <= INTEGER_TOLERANCE)
    good = parity.close == 1 or (same and (integer or parity.close >= enough))
    if not (good and np.isfinite(a).all()):
        raise ParityError(
            f"the exported graph disagrees with the model on {len(a)} images (largest difference "
            f"{parity.max_difference:.2%} of the largest logit, same class on {parity.agreement:.1%}); not written"
        )
    return parity


def has_integers(proto: onnx.ModelProto) -> bool:
    return any(node.op_type in ("QuantizeLinear", "MatMulInteger", "MatMulNBits") for node in proto.graph.node)
