"""NNCF's lowering: near the float model at every batch size, counted from kernels, whole on disk, and silent."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch

from baselines.errors import InputError
from baselines.macs import dense_macs, linear_macs
from baselines.vit import VisionTransformer, ViTConfig
from compress import runtimes, variant
from compress.checkpoints.checkpoint import Checkpoint
from compress.exporters import onnx as export
from compress.exporters.onnx import ParityError
from compress.methods import Int8, Method, ToMe, TopK
from compress.quantization.calibration import rounding_off
from compress.runtimes import BuildInputs, nncf

RUNTIME = runtimes.get("nncf")
CONFIG = ViTConfig(
    image_size=(16, 16), channels=3, patch_size=4, dim=64, depth=2, heads=2, mlp_dim=144, tokenizer="conv"
)
VARIANTS: dict[str, tuple[Method, ...]] = {
    "int8": (Int8(),),
    "topk_int8": (TopK(), Int8(fallback_dtype="bf16")),
    "tome_int8": (ToMe(), Int8()),
}
IMAGES = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@dataclass
class Made:
    model: VisionTransformer
    which: variant.Variant
    content: Checkpoint
    path: Path

    def build(self, path: Path) -> None:
        RUNTIME.build(BuildInputs(self.model, self.which, self.content, IMAGES), path)


def make(methods: tuple[Method, ...], path: Path) -> Made:
    """A calibrated model whose classes lie far apart, so that rounding does not change them."""
    torch.manual_seed(0)
    model = variant.prepare(VisionTransformer(CONFIG), methods).eval()
    model.head.bias.data[3] = 5.0
    for method in methods:
        method.calibrate(model, [IMAGES])
    described = tuple({"name": method.name, **method.model_dump()} for method in methods)
    classes = tuple("0123456789")
    content = Checkpoint(CONFIG, described, model.state_dict(), "digits", classes, (0.3,) * 3, (0.4,) * 3)
    return Made(model, variant.Variant(methods), content, path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, home: Path) -> dict[str, Made]:
    folder = tmp_path_factory.mktemp("nncf")
    found = {name: make(methods, folder / f"{name}{RUNTIME.suffix}") for name, methods in VARIANTS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        for each in found.values():
            each.build(each.path)
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_near_the_float_ones_at_every_batch_size(name: str, built: dict[str, Made]) -> None:
    made = built[name]
    with rounding_off(made.model), torch.inference_mode():
        expected = made.model(IMAGES).numpy()
    session = RUNTIME.load(made.path, "cpu", 1)
    for size in (1, 2, 7, 24, 1):
        got = session.get(session.run(session.put(IMAGES[:size].numpy())))
        assert got.shape == (size, 10)
        assert np.abs(got - expected[:size]).max() <= 0.05 * np.abs(expected).max()


def test_all_products_but_those_of_softmax_and_the_tokenizer_are_integers(built: dict[str, Made]) -> None:
    """As NNCF is told, and as it leaves them: OpenVINO fuses attention times values with an integer product."""
    block = CONFIG.tokens * linear_macs(CONFIG) + CONFIG.tokens**2 * CONFIG.dim
    inspection = RUNTIME.inspect(built["int8"].path)
    print(inspection)
    assert (inspection.executed, inspection.notes) == ("int8", ())
    integers = CONFIG.depth * block + CONFIG.dim * CONFIG.classes
    assert inspection.integer_share == pytest.approx(integers / dense_macs(CONFIG), rel=1e-12)


def test_a_rest_in_bf16_is_said_as_it_ran(built: dict[str, Made]) -> None:
    inspection = RUNTIME.inspect(built["topk_int8"].path)
    print(inspection)
    flags = Path("/proc/cpuinfo").read_text()
    ran = "avx512_bf16" in flags or "amx_bf16" in flags
    note = "the rest ran in bf16" if ran else "this processor computes no bf16, so the rest ran in fp32"
    assert (inspection.executed, inspection.notes) == ("int8", (note,))
    assert inspection.integer_share is not None
    assert 0.5 < inspection.integer_share < 1


def test_the_file_says_alone_what_it_is(built: dict[str, Made]) -> None:
    for name, made in built.items():
        model = openvino.Core().read_model(made.path)
        facts = {key: json.loads(value.astype(str)) for key, value in model.rt_info["compress"].items()}
        assert facts["classes"] == list("0123456789")
        assert (facts["mean"], facts["std"]) == ([0.3] * 3, [0.4] * 3)
        assert facts["methods"] == json.loads(json.dumps(made.content.methods))
        assert facts["fallback_dtype"] == ("bf16" if name == "topk_int8" else "fp32")
        assert not model.has_rt_info(["framework"])


def test_both_files_count_and_nothing_else_is_left(built: dict[str, Made]) -> None:
    folder = built["int8"].path.parent
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{name}.nncf.{suffix}" for name in VARIANTS for suffix in ("xml", "bin")
    )
    path = built["int8"].path
    assert runtimes.count_bytes(path) == path.stat().st_size + path.with_suffix(".bin").stat().st_size


def test_nothing_is_reported_to_anybody(built: dict[str, Made], home: Path) -> None:
    """OpenVINO and NNCF keep an identity of this user where their telemetry is on."""
    assert not (home / "intel").exists()


def without_engines(patch: pytest.MonkeyPatch, **found: Any) -> None:
    """Neither the export nor NNCF runs; what comes out is two files of one byte."""

    def quantize(source: Path, images: Path, target: Path) -> dict[str, Any]:
        target.write_bytes(b"x")
        target.with_suffix(".bin").write_bytes(b"b")
        return {"agreement": 1.0, "difference": 1.0, "finite": True, **found}

    patch.setattr(export, "export_onnx", lambda *_: None)
    patch.setattr(nncf, "_quantize", quantize)


@pytest.mark.parametrize("found", [{"agreement": 0.94}, {"finite": False}])
def test_a_graph_that_disagrees_is_not_left_behind(
    found: dict[str, Any], built: dict[str, Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_engines(monkeypatch, **found)
    with pytest.raises(ParityError, match="NNCF quantized disagrees with the model on 24 images"):
        built["int8"].build(tmp_path / "a.nncf.xml")
    assert not list(tmp_path.iterdir())


def test_a_place_that_takes_no_files_is_named_in_one_sentence(
    built: dict[str, Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_engines(monkeypatch)
    built["int8"].build(tmp_path / "a.nncf.xml")
    with pytest.raises(InputError, match=r"b\.nncf\.bin could not be written .*; free some space"):
        built["int8"].build(tmp_path / "a.nncf.xml" / "b.nncf.xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nncf.bin", "a.nncf.xml"]


def test_what_nncf_does_not_take_is_said_in_one_sentence(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 3, 16, 16), np.float32))
    with pytest.raises(RuntimeError, match="NNCF could not quantize it: ") as caught:
        nncf._quantize(tmp_path / "a.onnx", tmp_path / "a.npy", tmp_path / "a.xml")
    assert "\n" not in str(caught.value)
