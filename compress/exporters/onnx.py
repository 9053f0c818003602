"""A model -> one ONNX file, checked against its source on real images before it appears."""

import copy
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from baselines.classifier import Classifier
from baselines.errors import InputError
from baselines.vit import Attention, Encoder, VisionTransformer
from compress import files, variant
from compress.checkpoints import user_models
from compress.checkpoints.checkpoint import Checkpoint
from compress.exporters import external, garbage
from compress.exporters.operators import halve_constants, list_gathered_indices, list_translations

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
    """How an exported graph compares with its source on real images."""

    n_images: int
    max_difference: float  # of logits, relative to the largest logit
    agreement: float  # share of images given the same class
    close: float  # share of images whose logits differ by no more than float rounding


def export_onnx(
    model: Classifier, path: Path, images: Tensor, content: Checkpoint, batch_size: int | None = None
) -> Parity:
    """Writes `model` as ONNX, with its weights inside the file, or beside it where protobuf has no room for them.

    Args:
        images: normalized real images (n, C, height, width), n >= 10, for tracing and for the parity check.
        content: where the model comes from; class names and normalization travel in the file's metadata.
        batch_size: of all batches that the file takes; None: any.

    Raises:
        ParityError: the graph disagrees with the model.
        InputError: the file cannot be written.
    """
    model, images = copy.deepcopy(model).cpu().eval(), images.cpu()
    describe_file(proto := trace_model(model, images[:2]), content)
    if batch_size is not None:
        set_batch_size(proto, batch_size)
    if has_integers(proto):
        halve_constants(proto)
        list_gathered_indices(proto)
    check = partial(check_parity, model, images=images, integer=has_integers(proto), batch_size=batch_size)
    if external.count_weight_bytes(proto) > external.LARGEST_INSIDE:
        return external.write_outside(proto, path, check)
    onnx.checker.check_model(proto)
    parity = check(serialised := proto.SerializeToString())
    files.write(path, serialised)
    return parity


def convert_for_onnx(model: Classifier, which: variant.Variant, content: Checkpoint) -> Classifier:
    """The converted model that becomes ONNX: in float32 where it was bf16, since engines do that rounding themselves.

    Raises:
        InputError: it is fp8, which no ONNX engine multiplies here.
    """
    if which.dtype == "fp8":
        raise InputError(f"{which.name!r} runs in torch alone, on GPUs; export the same model in another precision")
    methods = [method for method in which.methods if method.dtype != "bf16"]
    if len(methods) < len(which.methods):
        added = [method for method in methods if not method.in_geometry]  # `config` is what they made already
        model = variant.prepare(user_models.build_model(content.config), added)
        model = variant.convert(model, methods) if content.converted else model
        model.load_state_dict({name: value.float() for name, value in content.state.items()})
    return model.eval() if content.converted else variant.convert(model, methods)


def trace_model(model: Classifier, images: Tensor) -> onnx.ModelProto:
    """The graph of `model`; attention spelled out, since the fused kernel refuses shapes that depend on data.

    Raises:
        ParityError: torch cannot export a model of the user's code.
    """
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused = False
    with warnings.catch_warnings(), torch.no_grad(), garbage.put_off_collection():
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
                custom_translation_table=list_translations(),
                verbose=False,
            )
        except Exception as error:  # torch raises many kinds, and the user's code may raise others
            if not isinstance(model.config, user_models.ModuleConfig):
                raise
            fault = str(error.__cause__ or error).strip().splitlines()[0]
            raise ParityError(f"torch cannot export {model.config.factory} with a free batch size ({fault})") from error
    assert program is not None
    return program.model_proto


def describe_file(proto: onnx.ModelProto, content: Checkpoint) -> None:
    """Adds what a user of the file needs; removes the exporter's notes, which hold paths of this machine.

    Metadata, each as JSON; those of an OpenVINO file stand in its `rt_info`, under `compress`:

        model       what its baseline is called
        classes     names, in the order of the logits
        mean, std   of each channel, of pixels in [0, 1]; hence also how many channels there are
        image_size  height, width in pixels
        dataset     on which it was trained
        methods     what was done to it, in order, with all settings
        calibration how many training images set its ranges, and a hash of them; null where none did
        fallback_dtype  in which an engine may compute whatever is not in integers: fp32 or bf16; once called `rest`
        runtime     the engine that it was kept for, in a file that `compress quantize` chose
    """
    del proto.graph.value_info[:]  # stale shapes; ONNX Runtime's own tools stumble over them
    for node in proto.graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:], proto.metadata_props[:], proto.functions[:]
    onnx.helper.set_model_props(proto, make_metadata(content))
    proto.producer_name, proto.graph.name = "compress", variant.baseline_name(content.config)


def make_metadata(content: Checkpoint) -> dict[str, str]:
    """What a file made for an engine says of itself; see `describe_file`."""
    facts = {
        "model": variant.baseline_name(content.config),
        "classes": content.classes,
        "mean": content.mean,
        "std": content.std,
        "resizing": content.resizing.model_dump() if content.resizing else None,
        "dataset": content.dataset,
        "methods": content.methods,
        "fallback_dtype": find_fallback_dtype(content),
        "calibration": content.calibration,
        "image_size": content.config.image_size,
    }
    return {name: json.dumps(value) for name, value in facts.items()}


def find_fallback_dtype(content: Checkpoint) -> str:
    """In which dtype an engine may compute whatever is not in integers: fp32 or bf16."""
    settings = dict(content.methods[-1]) if content.methods else {}
    return variant.make_method(str(settings.pop("name")), settings).fallback if settings else "fp32"


def set_batch_size(proto: onnx.ModelProto, batch_size: int) -> None:
    """Fixes the batch size of a graph, the first dimension of what it takes and gives, which was free."""
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch_size


def check_parity(
    model: Classifier, graph: bytes | Path, images: Tensor, *, integer: bool, batch_size: int | None = None
) -> Parity:
    """Runs a graph or its file, in ONNX Runtime, and model on the same images; see `compare_logits`.

    Raises:
        ParityError: they disagree.
    """
    import onnxruntime  # only now: the rest of the product works without it

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def run(batch: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {"images": batch})[0])

    return compare_logits(model, run, images, integer=integer, batch_size=batch_size)


def compare_logits(
    model: Classifier,
    run: Callable[[np.ndarray], np.ndarray],
    images: Tensor,
    *,
    integer: bool,
    batch_size: int | None = None,
) -> Parity:
    """Gives a model, and what was made of it, the same images.

    Args:
        run: images (B, C, height, width) -> logits (B, classes), in an engine.
        integer: whether integers are multiplied there.
        batch_size: of all batches, for whose sake images come again; None: batches of 1, 2 and 7.

    Raises:
        ParityError: they disagree.
    """
    if batch_size is None:
        sizes = [*PARITY_BATCHES]
        sizes += [PARITY_BATCHES[-1]] * ((len(images) - sum(sizes)) // PARITY_BATCHES[-1])
        batches = images[: sum(sizes)].split(sizes)
    else:
        batches = images.repeat(batch_size, 1, 1, 1)[: -(-len(images) // batch_size) * batch_size].split(batch_size)
    with torch.inference_mode():
        b = np.concatenate([model(batch).numpy() for batch in batches])
    a = np.concatenate([run(batch.numpy()) for batch in batches])
    if broken := int((~(np.isfinite(a) & np.isfinite(b)).all(1)).sum()):
        raise ParityError(f"the logits are not finite for {broken} of {len(a)} images, so nothing tells; not written")
    differences = np.abs(a - b).max(1) / (np.abs(b).max() or 1.0)  # a head of zeros gives nothing else
    parity = Parity(
        n_images=min(len(a), len(images)),
        max_difference=float(differences.max()),
        agreement=float((a.argmax(1) == b.argmax(1)).mean()),
        close=float((differences <= FLOAT_TOLERANCE).mean()),
    )
    enough = CHOOSING_SHARE if isinstance(model, VisionTransformer) and type(model.encoder) is not Encoder else 1.0
    same = parity.agreement >= INTEGER_AGREEMENT or (integer and parity.max_difference <= INTEGER_TOLERANCE)
    good = parity.close == 1 or (same and (integer or parity.close >= enough))
    if not good:
        raise ParityError(
            f"the exported graph disagrees with the model on {len(a)} images (largest difference "
            f"{parity.max_difference:.2%} of the largest logit, same class on {parity.agreement:.1%}); not written"
        )
    return parity


def has_integers(proto: onnx.ModelProto) -> bool:
    return any(node.op_type in ("QuantizeLinear", "MatMulInteger", "MatMulNBits") for node in proto.graph.node)
