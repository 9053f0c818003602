"""A Vision Transformer whose blocks have widths of their own: everything that goes for even ones goes for it."""

import copy
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from baselines.errors import InputError
from baselines.geometry import BlockSizes
from baselines.macs import dense_macs, params
from baselines.vit import VisionTransformer, ViTConfig
from compress import loading, variant
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import Checkpoint
from compress.exporters.libraries import write_for_library
from compress.exporters.onnx import convert_for_onnx, export_onnx
from compress.measure.cost import CLOSED, count_with_libraries, disagreements, measure_cost
from compress.methods import METHODS, Method
from compress.methods.narrow import narrower
from compress.verbs.quantize.source import keep_blocks

SIZES = ((3, 8, 16, 40), (1, 16, 8, 16), (2, 4, 4, 24))
GEOMETRY: dict[str, Any] = {"image_size": (16, 12), "channels": 1, "patch_size": 4, "dim": 24, "depth": 3, "classes": 5}
GEOMETRY |= {"heads": 2, "mlp_dim": 32}


def make(**changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    geometry: dict[str, Any] = {**GEOMETRY, "block_sizes": SIZES, **changes}
    return VisionTransformer(ViTConfig(**geometry)).eval()


def images(n: int = 5) -> torch.Tensor:
    return torch.randn(n, 1, 16, 12, generator=torch.Generator().manual_seed(1))


def pack(model: VisionTransformer, methods: tuple[Method, ...] = ()) -> Checkpoint:
    described = tuple({"name": each.name, **each.model_dump()} for each in methods)
    return Checkpoint(model.config, described, model.state_dict(), "noise", tuple("abcde"), (0.5,), (0.5,))


def test_what_even_models_say_of_themselves_is_as_before() -> None:
    config = ViTConfig(**GEOMETRY)
    assert config.blocks == [BlockSizes(2, 12, 12, 32)] * 3
    assert not {"block_sizes", "tokenizer_dim"} & config.model_dump().keys()
    assert "block_sizes" not in config.model_dump_json()


@torch.inference_mode()
def test_sizes_written_out_give_the_same_bits() -> None:
    even = make(block_sizes=None)
    same = make(block_sizes=((2, 12, 12, 32),) * 3)
    same.load_state_dict(even.state_dict())
    assert torch.equal(same(images()), even(images()))
    assert dense_macs(same.config) == dense_macs(even.config)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@torch.inference_mode()
def test_a_checkpoint_holds_the_sizes(tmp_path: Path, suffix: str) -> None:
    model, path = make(tokenizer="cct", tokenizer_dim=16), tmp_path / f"uneven{suffix}"
    checkpoint.save(path, pack(model))
    again, _, content = loading.restore_vit(path)
    assert content.config == model.config
    assert torch.equal(again(images()), model(images()))


def test_entries_fit_the_depth() -> None:
    with pytest.raises(ValueError, match="block_sizes has 3 entries for 2 blocks"):
        ViTConfig(**GEOMETRY | {"depth": 2, "block_sizes": SIZES})


@pytest.mark.parametrize("changes", [{}, {"tokenizer": "cct", "tokenizer_dim": 16, "pool": "seq"}, {"qk_norm": True}])
def test_all_counters_agree(changes: dict[str, Any]) -> None:
    model = make(**changes)
    cost = measure_cost(model, [])
    counted = count_with_libraries(cost)
    assert not disagreements(counted)
    assert counted[CLOSED] == dense_macs(model.config)
    assert cost.params == params(model.config)


@pytest.mark.parametrize("name", ["topk", "tome", "dynamicvit", "avit"])
@torch.inference_mode()
def test_tokens_leave_uneven_blocks(name: str) -> None:
    method = METHODS[name]()
    model = variant.prepare(make(), [method]).eval()
    method.calibrate(model, [images(32)])
    cost = measure_cost(model, [images()])
    assert cost.per_image.mean() < dense_macs(model.config)
    if cost.fixed and name != "avit":
        assert not disagreements(count_with_libraries(cost))
    identical = variant.prepare(make(), [METHODS[name](**METHODS[name].identity)]).eval()
    assert torch.equal(identical(images()), make()(images()))


@pytest.mark.parametrize("name", ["qat", "int4"])
def test_numbers_of_uneven_blocks(name: str) -> None:
    method = METHODS[name]()
    made = variant.prepare(make(), [method])
    method.initialize(made, [images(32)])
    made.train()(images()).square().mean().backward()
    assert all(each.grad is not None for key, each in made.named_parameters() if key.endswith("proj.weight"))
    method.calibrate(made.eval(), [images(32)])
    shipped = variant.convert(made, [method])
    torch.testing.assert_close(shipped(images()), made(images()), rtol=0, atol=1e-4)


def run(path: Path, x: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": x.numpy()})[0])


def export(path: Path, model: VisionTransformer, methods: tuple[Method, ...] = ()) -> None:
    which = variant.Variant(methods)
    content = pack(model, methods)
    export_onnx(convert_for_onnx(copy.deepcopy(model), which, content), path, images(10), content)


sizes = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 20))


@settings(max_examples=4, deadline=None, phases=[Phase.generate])
@given(blocks=st.lists(sizes, min_size=1, max_size=3), dim=st.integers(2, 12))
def test_any_sizes_export_and_quantize(tmp_path_factory: pytest.TempPathFactory, blocks: Any, dim: int) -> None:
    folder = tmp_path_factory.mktemp("sizes")
    model = make(dim=dim, heads=1, depth=len(blocks), block_sizes=tuple(blocks))
    export(folder / "float.onnx", model)
    torch.testing.assert_close(run(folder / "float.onnx", images(3)), model(images(3)), rtol=0, atol=1e-4)
    method = METHODS["int8"]()
    made = variant.prepare(model, [method]).eval()
    method.calibrate(made, [images(32)])
    shipped = variant.convert(made, [method])
    torch.testing.assert_close(shipped(images()), made(images()), rtol=0, atol=1e-4)
    assert not disagreements(count_with_libraries(measure_cost(model, [])))


def test_integers_export_with_the_same_answers(tmp_path: Path) -> None:
    model, method = make(), METHODS["int8"]()
    made = variant.prepare(model, [method]).eval()
    method.calibrate(made, [images(32)])
    export(tmp_path / "int8.onnx", made, (method,))
    shipped = variant.convert(made, [method])
    torch.testing.assert_close(run(tmp_path / "int8.onnx", images()), shipped(images()), rtol=0, atol=0.02)


def test_openvino_runs_it(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    model = make()
    export(tmp_path / "float.onnx", model)
    compiled = openvino.compile_model(tmp_path / "float.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    got = torch.from_numpy(compiled(images().numpy())[0])
    torch.testing.assert_close(got, model(images()), rtol=0, atol=1e-4)


@pytest.mark.parametrize("library", ["timm", "torchvision", "huggingface"])
def test_libraries_hold_even_blocks_alone(tmp_path: Path, library: str) -> None:
    model, path = make(), tmp_path / "uneven.pth"
    content = pack(model)
    with pytest.raises(InputError, match="has no models with blocks of different sizes"):
        write_for_library(path, model, variant.Variant(()), content, library, None, lambda *_: None)


def test_parts_of_it_are_models_too() -> None:
    short = keep_blocks(make(), 2)
    assert short(images()).shape == (5, 5)
    assert len(short.config.blocks) == 2
    small = narrower(make().config, 0.5)
    assert small.block_sizes is None
    VisionTransformer(small)
