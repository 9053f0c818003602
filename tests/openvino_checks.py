"""OpenVINO: the same logits as ONNX Runtime, float that is float32, and integer kernels that are counted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from integer_engines import Case, allowed, cases, run, write

pytest.importorskip("openvino")

from baselines.macs import dense_macs, linear_macs
from baselines.resizing import STRETCHED, Resizing
from baselines.vit import VisionTransformer, ViTConfig
from compress import loading, runtimes, variant
from compress.checkpoints.checkpoint import Checkpoint
from compress.exporters.onnx import export_onnx
from compress.methods import METHODS, Bf16, Int8, Method, Stage
from compress.runtimes import BuildInputs, Session
from compress.runtimes.openvino_graph import count_product_macs, read_model
from compress.runtimes.openvino_session import OpenvinoSession
from compress.runtimes.ort_graph import count_integer_products, make_example, profile

RUNTIME = runtimes.get("openvino")
CONFIG = ViTConfig(
    image_size=(16, 16), channels=3, patch_size=4, dim=64, depth=2, heads=2, mlp_dim=144, tokenizer="conv"
)
TOKENS: list[tuple[Method, ...]] = [(kind(),) for kind in METHODS.values() if kind.stage == Stage.TOKENS]
VARIANTS: dict[str, tuple[Method, ...]] = {
    variant.Variant(methods).name: methods for tokens in [(), *TOKENS] for methods in (tokens, (*tokens, Int8()))
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exported models whose classes lie far apart, so that rounding does not change them."""
    folder, images = tmp_path_factory.mktemp("openvino"), torch.randn(24, 3, 16, 16)
    for name, methods in VARIANTS.items():
        torch.manual_seed(0)
        model = variant.prepare(VisionTransformer(CONFIG), methods).eval()
        model.head.bias.data[3] = 5.0
        for method in methods:
            method.calibrate(model, [images])
        shipped = variant.convert(model, methods)
        described = tuple({"name": method.name, **method.model_dump()} for method in methods)
        classes = tuple("0123456789")
        content = Checkpoint(CONFIG, described, shipped.state_dict(), "digits", classes, (0.3,) * 3, (0.4,) * 3)
        export_onnx(shipped, folder / f"{name}.onnx", images, content)
    return {name: folder / f"{name}.onnx" for name in VARIANTS}


def logits(session: Session, images: np.ndarray) -> np.ndarray:
    return session.get(session.run(session.put(images)))


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_those_of_onnx_runtime(name: str, files: dict[str, Path]) -> None:
    ours = RUNTIME.load(files[name], "cpu", 1)
    theirs = runtimes.get("onnxruntime").load(files[name], "cpu", 1)
    tolerance = 0.03 if "int8" in name else 1e-5  # integers are rounded by each engine in its own way
    for batch in (1, 2, 7, 1):
        images = np.random.default_rng(batch).standard_normal((batch, 3, 16, 16), dtype=np.float32)
        got, expected = logits(ours, images), logits(theirs, images)
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", ["vit", "topk_int8", "avit_int8"])
def test_a_graph_for_one_batch_size_gives_the_same_logits(
    name: str, engine: str, batch: int, files: dict[str, Path]
) -> None:
    """Also where images decide how many tokens there are; `avit_int8` once gave 1e24 here (docs/log.md)."""
    images = np.random.default_rng(batch).standard_normal((batch, 3, 16, 16), dtype=np.float32)
    runtime = runtimes.get(engine)
    got, expected = (logits(runtime.load(files[name], "cpu", 1, size), images) for size in (batch, None))
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= (0.03 if "int8" in name else 1e-5) * np.abs(expected).max()


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", ["vit", "int8", "topk_int8"])
def test_the_program_that_quantize_prints_computes_the_same(name: str, engine: str, files: dict[str, Path]) -> None:
    """OpenVINO alone, without what `read_model` mends, is right of these files."""
    content = Checkpoint(CONFIG, (), {}, "digits", (), (0.3,) * 3, (0.4,) * 3)
    program = runtimes.get(engine).write_usage(files[name], content, 1)
    zeros, noise = "np.zeros((1, 3, 16, 16), np.float32)", np.random.default_rng(0).standard_normal((1, 3, 16, 16))
    assert zeros in program
    names: dict[str, Any] = {"noise": noise.astype(np.float32)}
    exec(program.replace(zeros, "noise"), names)
    expected = logits(runtimes.get("onnxruntime").load(files[name], "cpu", 1), names["noise"])
    assert np.abs(names["logits"] - expected).max() <= (0.03 if "int8" in name else 1e-5) * np.abs(expected).max()


@settings(max_examples=20, deadline=None)
@given(cases())
@torch.no_grad()
def test_an_integer_layer_is_the_one_torch_simulates(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    path = write(case.layer, tmp_path_factory.getbasetemp() / "layer.onnx")
    got, want = run("openvino", path, case.x), case.layer(case.x)
    assert ((got - want).abs() <= allowed(case.layer, case.x)).all()


def test_bf16_is_computed_where_the_processor_has_it_and_said_as_it_is(files: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    which = variant.Variant((Bf16(),))
    model, images = variant.prepare(VisionTransformer(CONFIG), which.methods).eval(), torch.randn(24, 3, 16, 16)
    content = loading.pack(model, which.methods, Made(), CONFIG)  # type: ignore[arg-type]
    RUNTIME.build(BuildInputs(model, which, content, images), path := tmp_path / "bf16.onnx")
    hardware = "avx512_bf16" in Path("/proc/cpuinfo").read_text() or "amx_bf16" in Path("/proc/cpuinfo").read_text()
    assert RUNTIME.inspect(path).executed == ("bf16" if hardware else "fp32")
    got = logits(RUNTIME.load(path, "cpu", 1), images.numpy())
    expected = logits(runtimes.get("onnxruntime").load(path, "cpu", 1), images.numpy())
    assert np.abs(got - expected).max() <= 0.03 * np.abs(expected).max()


@dataclass
class Made:
    """What a checkpoint takes from a data set."""

    name: str = "noise"
    classes: tuple[str, ...] = tuple("0123456789")
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    resizing: Resizing = STRETCHED


def test_a_result_outlives_the_next_call(files: dict[str, Path]) -> None:
    session = RUNTIME.load(files["vit"], "cpu", 1)
    first = session.run(session.put(np.zeros((2, 3, 16, 16), np.float32)))
    kept = first.copy()
    session.run(session.put(np.ones((2, 3, 16, 16), np.float32)))
    assert (first == kept).all()


def test_float_stays_float32_and_threads_are_as_asked(files: dict[str, Path]) -> None:
    session = RUNTIME.load(files["vit"], "cpu", 2)
    assert isinstance(session, OpenvinoSession)
    told = {name: str(session.compiled.get_property(name)) for name in ("NUM_STREAMS", "INFERENCE_NUM_THREADS")}
    assert told == {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "2"}
    assert "float32" in str(session.compiled.get_property("INFERENCE_PRECISION_HINT"))


def test_share_of_integer_macs_is_that_of_the_linear_layers_in_both_engines(files: dict[str, Path]) -> None:
    linear = CONFIG.depth * CONFIG.tokens * linear_macs(CONFIG)
    for runtime in (RUNTIME, runtimes.get("onnxruntime")):
        assert runtime.inspect(files["vit"]) == runtimes.Inspection("fp32")
        inspection = runtime.inspect(files["int8"])
        assert (inspection.executed, inspection.notes) == ("int8", ())
        assert inspection.integer_share == pytest.approx(linear / dense_macs(CONFIG), rel=1e-12)


def test_both_engines_count_the_macs_of_closed_form_also_when_tokens_stop(files: dict[str, Path]) -> None:
    for name in VARIANTS:
        images = make_example(files[name], 2)
        counted = [
            sum(count_product_macs(read_model(files[name]), images).values()),
            sum(each.macs for each in profile(files[name], images)),
        ]
        assert counted[0] == counted[1]
        if "int8" in name:  # all Linear layers of the blocks, and none of those that a token method adds
            assert count_integer_products(files[name]) == (4 * CONFIG.depth, 0)
        if name in ("vit", "int8"):
            assert counted[0] == 2 * dense_macs(CONFIG)


def test_one_index_taken_from_an_integer_product(tmp_path: Path) -> None:
    """OpenVINO's own handling of this graph loses an axis (2026.4.1)."""
    chance = np.random.default_rng(0)
    tensors = {
        "w": chance.integers(-127, 127, (32, 48), dtype=np.int8),
        "ws": chance.random(48, dtype=np.float32) * 0.01,
        "s": np.float32(0.02),
        "z": np.uint8(128),
        "i": np.int64(0),
        "b": chance.random(48, dtype=np.float32),
        "axes": np.array([0], np.int64),
    }
    node = onnx.helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w", "ws"], ["dw"], axis=1),
        node("Unsqueeze", ["d", "axes"], ["u"]),
        node("MatMul", ["u", "dw"], ["m"]),
        node("Gather", ["m", "i"], ["g"], axis=0),
        node("Add", ["g", "b"], ["y"]),
    ]
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 32])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 48])
    initializers = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    graph = onnx.helper.make_graph(nodes, "gather", [x], [y], initializers)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10),
              path := tmp_path / "gather.onnx")  # fmt: skip
    images = chance.standard_normal((5, 32), dtype=np.float32)
    got, expected = (logits(runtimes.get(name).load(path, "cpu", 1), images) for name in ("openvino", "onnxruntime"))
    assert got.shape == expected.shape == (5, 48)
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
