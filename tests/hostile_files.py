"""Small files of weights: whole ones of every format, and ones that a stranger made with care. Not a test."""

import argparse
import collections
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from onnx import TensorProto, helper
from torch import Tensor
from torch._utils import _rebuild_tensor_v2

from baselines.vit import VisionTransformer, ViTConfig
from compress import variant
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import Checkpoint
from compress.importers import LAYOUTS, ImportedModel
from compress.importers.base import ExportedModel

CONFIG = ViTConfig(image_size=(8, 8), patch_size=4, dim=8, depth=1, heads=2, mlp_dim=8, classes=3)
CLASSES, MEAN, STD = ("cat", "dog", "elk"), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
GIGABYTE = 2**30


# --- whole files


def model(config: ViTConfig = CONFIG) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(config).eval()


def own(path: Path, **changes: Any) -> Path:
    """A checkpoint of compress; `changes` are made in what it says."""
    whole = Checkpoint(CONFIG, (), model().state_dict(), "folder:pets", CLASSES, MEAN, STD)
    checkpoint.save(path, replace(whole, **changes))
    return path


def quantized(path: Path) -> Path:
    """A checkpoint of compress with two methods."""
    methods = variant.parse("topk_int8").methods
    state = variant.prepare(model(), methods).state_dict()
    described = tuple({"name": method.name, **method.model_dump()} for method in methods)
    return own(path, methods=described, state=state, calibration={"images": 64, "sha256": "0" * 64})


def outgoing(family: str) -> ExportedModel:
    """The model as another library has it."""
    (write,) = [each.write for each in LAYOUTS if each.name == family]
    assert write is not None
    return write(ImportedModel(CONFIG, model().state_dict(), CLASSES, MEAN, STD))


def timm(**changes: Tensor | None) -> dict[str, Tensor]:
    """timm's state dict, with some tensors replaced, or left out where there is none; dots are written `__`."""
    state: dict[str, Any] = {**outgoing("timm").tensors}
    state |= {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in state.items() if value is not None}


def training(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a training saves around its weights."""
    weights = [torch.nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.AdamW(weights)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 6])
    weights[0].grad = torch.ones(2)
    optimizer.step()
    return {
        "model": collections.OrderedDict(state),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "args": argparse.Namespace(lr=1e-3, betas=(0.9, 0.95), device=torch.device("cuda:0"), name="vit"),
        "epoch": 3,
        "best": 0.5,
        "random": torch.get_rng_state(),
    }


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def legacy(content: Any) -> bytes:
    """As torch wrote files before 1.6."""
    return saved(content, _use_new_zipfile_serialization=False)


def arrays(**changes: Any) -> bytes:
    """An npz file of timm's weights."""
    buffer = io.BytesIO()
    found: dict[str, Any] = {name: value.numpy() for name, value in timm().items()} | changes
    np.savez(buffer, **found)
    return buffer.getvalue()


def folder(path: Path, **changes: Any) -> Path:
    """A folder of Hugging Face; `changes` are made in its config.json."""
    path.mkdir()
    given = outgoing("huggingface")
    (path / "model.safetensors").write_bytes(safetensors.torch.save(given.tensors))
    (path / "config.json").write_text(json.dumps({**given.settings, **changes}))
    (path / "preprocessor_config.json").write_text(json.dumps(given.preprocessing))
    return path


def graph() -> bytes:
    """An ONNX file whose weights lie beside it."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], bytes(64), raw=True)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.data", "offset": "0", "length": "64"}.items():
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return helper.make_model(helper.make_graph([node], "graph", [x], [y], [weight])).SerializeToString()


XML = b"""<?xml version="1.0"?><net name="a" version="11"><layers><layer id="0" name="w" type="Const" version="opset1">
<data element_type="f32" shape="4, 4" offset="0" size="64"/><output><port id="0" precision="FP32"><dim>4</dim></port>
</output></layer></layers><edges/></net>"""


# --- archives and pickles, byte by byte


def archive(entries: Mapping[str, bytes], *, compressed: bool = False, align: int = 64) -> bytes:
    """A zip file whose entries begin where torch lets them begin."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
            free = -(buffer.tell() + 30 + len(name) + 4) % align
            entry.extra = struct.pack("<2sH", b"FB", free) + bytes(free)
            file.writestr(entry, content)
    return buffer.getvalue()


def torch_archive(tree: bytes, storages: Mapping[str, bytes] | None = None, **options: Any) -> bytes:
    """A checkpoint of torch, around a pickle."""
    data = {f"archive/data/{key}": content for key, content in (storages or {}).items()}
    return archive(
        {"archive/data.pkl": tree, "archive/byteorder": b"little", **data, "archive/version": b"3\n"}, **options
    )


class Call:
    """Unpickling it calls something."""

    def __init__(self, called: Callable[..., Any], *args: Any, state: Any = None):
        self.called, self.args, self.state = called, args, state

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.called, self.args) if self.state is None else (self.called, self.args, self.state)


class Stored(Call):
    """A storage of floats, as a pickle speaks of it."""

    def __init__(self, key: str, elements: int, *more: Any):
        self.told = ("storage", torch.FloatStorage, key, "cpu", elements, *more)


class Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return obj.told if isinstance(obj, Stored) else None


def pickled(content: Any) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue()


def tensor(storage: Stored, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> Call:
    hooks: Any = collections.OrderedDict()
    return Call(_rebuild_tensor_v2, storage, offset, shape, strides, False, hooks)


def shell(target: Path) -> Call:
    """A command that leaves a file behind."""
    return Call(os.system, f"touch {target}")


def old_pickles(content: Any, keys: list[str], data: bytes) -> bytes:
    """A file of torch before 1.6, with whatever claims."""
    first = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {"little_endian": True})
    return b"".join(map(pickled, (*first, content, keys))) + data


def nested(levels: int, last: Any, wrap: Callable[[Any], Any]) -> Any:
    for _ in range(levels):
        last = wrap(last)
    return last


def safetensors_file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data
