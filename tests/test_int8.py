"""Quantisation: few enough levels, small enough errors, and integer kernels that really run."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.errors import InputError
from baselines.vit import VisionTransformer, ViTConfig
from compress import variant
from compress.checkpoints.checkpoint import Checkpoint
from compress.exporters.onnx import ParityError, check_parity, export_onnx
from compress.methods import METHODS, Int8, Method, Stage
from compress.quantization.linear import QuantLinear, Rounding
from compress.quantization.operators import channel_scale, quantize_weight
from compress.quantization.sixteen_bits import shrink_state
from compress.runtimes.ort_graph import count_integer_products

CONFIG = ViTConfig(image_size=8, channels=1, patch_size=2, dim=32, depth=2, heads=2, mlp_dim=48, tokenizer="conv")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    low=st.floats(-50, 50),
    span=st.floats(1e-3, 100),
    outlier=st.sampled_from([0.0, 1e4]),
    signed=st.booleans(),
)
def test_at_most_256_levels_and_half_a_step(seed: int, low: float, span: float, outlier: float, signed: bool) -> None:
    x = torch.rand(400, generator=torch.Generator().manual_seed(seed)) * span + low
    place = Rounding(signed).eval()
    place.set_range(x.min().item(), x.max().item())
    x = torch.cat([x, torch.tensor([outlier])])
    got, learning = place(x), place.train()(x)
    assert torch.equal(got, learning)
    scale, zero = place.scale.item(), int(place.zero_point)
    least, most = (-128, 127) if signed else (0, 255)
    assert len(got.unique()) <= 256
    inside = (x >= (least - zero) * scale) & (x <= (most - zero) * scale)
    assert ((got - x).abs()[inside] <= scale / 2 * (1 + 1e-3) + 1e-6).all()
    assert place(torch.zeros(1)).item() == 0


def test_weights_channel_by_channel_with_dead_and_huge_channels() -> None:
    weight = torch.randn(5, 64)
    weight[1] = 0
    weight[2] *= 1e4
    scale = channel_scale(weight)
    levels = quantize_weight(weight, scale)
    assert levels.dtype == torch.int8
    assert levels.abs().max() == 127
    assert ((levels.float() * scale[:, None] - weight).abs() <= scale[:, None] / 2 * (1 + 1e-4)).all()
    assert (levels[1] == 0).all()


def test_constant_and_infinite_activations() -> None:
    place = Rounding()
    place.set_range(0.0, 0.0)
    assert place(torch.zeros(2, 4)).isfinite().all()
    with pytest.raises(ValueError, match="not finite"):
        place.set_range(0.0, float("inf"))


TOKENS: list[tuple[Method, ...]] = [(kind(),) for kind in METHODS.values() if kind.stage == Stage.TOKENS]


@pytest.mark.parametrize(
    "methods", [(*tokens, Int8()) for tokens in [(), *TOKENS]], ids=lambda methods: variant.Variant(methods).name
)
def test_every_linear_of_the_blocks_runs_in_integers(methods: tuple[Method, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randn(40, 1, 8, 8)
    model = variant.prepare(VisionTransformer(CONFIG), methods).eval()
    for method in methods:
        method.calibrate(model, [images])
    shipped = variant.convert(model, methods)
    assert sum(isinstance(module, QuantLinear) for module in shipped.modules()) == 4 * CONFIG.depth
    if methods[0].name not in ("int8", "dynamicvit"):  # alone, and beside layers of its own that stay in float
        return  # openvino_checks.py exports them all
    content = Checkpoint(CONFIG, (), shipped.state_dict(), "digits", tuple("0123456789"), (0.3,), (0.4,))
    path = tmp_path / "int8.onnx"
    parity = export_onnx(shipped, path, images, content)
    assert parity.agreement >= 0.95
    assert count_integer_products(path) == (4 * CONFIG.depth, 0)
    assert list(tmp_path.iterdir()) == [path]  # weights are inside, nothing else was left
    session = onnxruntime.InferenceSession(path)
    assert session.get_modelmeta().custom_metadata_map["mean"] == "[0.3]"
    for n in (1, 2, 7):
        assert session.run(None, {"images": images[:n].numpy()})[0].shape == (n, 10)
    assert not any(node.metadata_props or node.doc_string for node in onnx.load(path).graph.node)


def test_a_graph_that_computes_something_else_is_refused() -> None:
    torch.manual_seed(0)
    x = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["b", 1, 8, 8])
    y = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["b", 10])
    weight = onnx.numpy_helper.from_array(np.ones((64, 10), np.float32), "w")
    nodes = [
        onnx.helper.make_node("Flatten", ["images"], ["f"]),
        onnx.helper.make_node("MatMul", ["f", "w"], ["logits"]),
    ]
    graph = onnx.helper.make_graph(nodes, "wrong", [x], [y], [weight])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(ParityError, match="disagrees"):
        check_parity(
            VisionTransformer(CONFIG).eval(), proto.SerializeToString(), torch.randn(10, 1, 8, 8), integer=False
        )


def test_what_is_not_multiplied_in_integers_takes_16_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = ViTConfig(image_size=(64, 64), patch_size=8, dim=192, depth=2, heads=3, mlp_dim=768, classes=1000)
    model, images, method = VisionTransformer(size).eval(), torch.randn(10, 3, 64, 64), Int8(reconstruct=False)
    model.head.bias.data[3] = 5.0  # classes far apart, for the check of the export
    model = variant.prepare(model, [method])
    method.calibrate(model, [images])
    shipped = variant.convert(model, [method])
    state, normal = shipped.state_dict(), (0.5,) * 3
    content = Checkpoint(size, (), state, "noise", tuple(map(str, range(1000))), normal, normal)
    export_onnx(shipped, path := tmp_path / "int8.onnx", images, content)
    each = {name: 1 if value.dtype == torch.int8 else 2 if value.ndim > 1 else 4 for name, value in state.items()}
    least = sum(each[name] * value.numel() for name, value in state.items())
    assert path.stat().st_size <= least + 30_000  # bytes; the rest is the graph
    held = {tensor.data_type for tensor in onnx.load(path).graph.initializer if np.prod(tensor.dims) >= 192 * 64}
    assert held == {onnx.TensorProto.INT8, onnx.TensorProto.FLOAT16}
    small = shrink_state(state)
    assert all(small[name].dtype == torch.float16 for name in ("pos_embed", "head.weight", "patch_embed.weight"))
    assert all(torch.equal(small[name].to(value.dtype), value) for name, value in state.items())


def test_attention_needs_scales_that_are_known() -> None:
    with pytest.raises(InputError, match=r"\[methods.int8\].*attention in integers needs activations"):
        variant.parse("int8", {"int8": {"attention": True, "activations": "token"}})
