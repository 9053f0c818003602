"""Weights of 4 bits and products of 8-bit floats: levels, errors, files, and engines that compute what torch does."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from baselines.errors import InputError
from baselines.macs import dense_macs, linear_macs
from baselines.vit import VisionTransformer, ViTConfig
from compress import loading, runtimes, variant
from compress.checkpoints.checkpoint import Checkpoint
from compress.exporters.onnx import export_onnx
from compress.methods import Fp8, Int4, Method
from compress.quantization import float8, int4
from compress.runtimes import BuildInputs

SIZES = [(8, 64, 32), (5, 50, 16), (3, 20, 32), (1, 33, 16)]  # outputs, inputs, group; some fill up their last group
CONFIG = ViTConfig(image_size=(8, 8), channels=1, patch_size=2, dim=64, depth=2, heads=2, mlp_dim=72, tokenizer="conv")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


IMAGES = normal(20, 1, 8, 8)


@torch.no_grad()
def logits(model: VisionTransformer) -> Any:
    return model(IMAGES).numpy()


def build(method: Method, model: VisionTransformer, path: Path) -> None:
    """Writes the artifact of torch."""
    data: Any = SimpleNamespace(name="digits", classes=tuple("0123456789"), mean=(0.3,), std=(0.4,), resizing=None)
    made = loading.pack(model, [method], data, model.config)
    runtimes.get("torch").build(BuildInputs(model, variant.Variant((method,)), made, IMAGES), path)


def prepared(method: Method, **changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return variant.prepare(VisionTransformer(CONFIG.model_copy(update=changes)), [method]).eval()


def dense() -> VisionTransformer:
    """The same weights before they were rounded."""
    model = VisionTransformer(CONFIG).eval()
    model.load_state_dict(prepared(Int4()).state_dict())
    return model


@pytest.mark.parametrize(("outputs", "inputs", "group"), SIZES)
def test_at_most_16_levels_a_group_and_half_a_step(outputs: int, inputs: int, group: int) -> None:
    weight = normal(outputs, inputs) * 10 ** normal(outputs, 1, seed=1)
    weight[:, 5] *= 40
    weight[0, :group] = 0
    scale = int4.group_scale(weight, group)
    got = int4.unpack(int4.pack(int4.levels(weight, scale, group)), scale, inputs)
    step = scale.abs().repeat_interleave(group, 1)[:, :inputs]
    assert ((got - weight).abs() <= step / 2 * (1 + 1e-4)).all()
    assert (got[0, :group] == 0).all()
    for row in got:
        for values in row.split(group):
            assert len(values.unique()) <= 16
    largest = int4.in_groups(weight, group).abs().amax(-1)
    assert (scale.abs() <= largest / 7 * (1 + 2**-10) + (largest == 0)).all()


def test_two_weights_a_byte_the_first_in_the_lower_half() -> None:
    levels = torch.tensor([[[-8.0, 7.0, 0.0, -1.0]]])
    assert int4.pack(levels).tolist() == [[[0xF0, 0x78]]]
    assert torch.equal(int4.unpack(int4.pack(levels), torch.tensor([[-0.5]]), 4), torch.tensor([[4.0, -3.5, 0.0, 0.5]]))


def test_inputs_are_rounded_group_by_group() -> None:
    x = normal(3, 50)
    x[0, :16] = 0
    x[1, 3] = 1e4  # spoils its own group alone
    error = (int4.rounded_inputs(x, 16) - x).abs()
    assert (error[0, :16] == 0).all()
    assert (int4.in_groups(error, 16).amax(-1) <= int4.in_groups(x, 16).abs().amax(-1) / 254 * (1 + 1e-4)).all()


@pytest.mark.parametrize(("outputs", "inputs", "group"), SIZES)
def test_the_operator_is_that_of_onnx_runtime(outputs: int, inputs: int, group: int) -> None:
    x, weight = normal(2, 6, inputs), normal(outputs, inputs, seed=1)
    x[0, 0] = 0
    scale = int4.group_scale(weight, group)
    packed = int4.pack(int4.levels(weight, scale, group))
    expected = int4.int4_product(x, packed, scale)
    rounding_off = x @ int4.unpack(packed, scale, inputs).t()
    for level, wanted in ((4, expected), (0, rounding_off)):
        sizes: dict[str, Any] = {"K": inputs, "N": outputs, "block_size": group, "bits": 4, "accuracy_level": level}
        node = onnx.helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", **sizes)
        values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy"]
        constants = [onnx.numpy_helper.from_array(each.numpy(), name) for each, name in ((packed, "w"), (scale, "s"))]
        graph = onnx.helper.make_graph([node], "product", values[:1], values[1:], constants)
        opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("com.microsoft", 1)]
        proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
        got: Any = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x.numpy()})[0]
        np.testing.assert_allclose(got, wanted.numpy(), rtol=0, atol=1e-4 if level == 0 else 1e-3)
    assert (expected - rounding_off).abs().max() > 3e-3


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, VisionTransformer]:
    """A file, and the model it was made of, as it ships."""
    which, path = variant.Variant((Int4(),)), tmp_path_factory.mktemp("int4") / "int4.onnx"
    shipped = variant.convert(prepared(Int4()), which.methods)
    content = Checkpoint(CONFIG, tuple(which.describe()), {}, "digits", tuple("0123456789"), (0.3,), (0.4,))
    export_onnx(shipped, path, IMAGES, content)
    return path, shipped


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_engines_compute_what_torch_does_and_say_so(name: str, exported: tuple[Path, VisionTransformer]) -> None:
    pytest.importorskip(name)
    (path, shipped), runtime = exported, runtimes.get(name)
    session, expected = runtime.load(path, "cpu", 1), logits(shipped)
    difference = np.abs(session.get(session.run(session.put(IMAGES.numpy()))) - expected).max()
    assert difference <= 0.02 * np.abs(expected).max()  # some activations are rounded the other way
    assert difference < np.abs(logits(dense()) - expected).max() / 3  # it is the rounded model that runs
    found = runtime.inspect(path)
    assert found.executed == "int4"
    macs = linear_macs(CONFIG)
    if name == "openvino":  # it fills up no groups
        macs -= CONFIG.mlp_dim * CONFIG.dim
        assert "2 of 8 products of 4-bit weights run in float" in found.notes[1]
    if found.integer_share is not None:  # on processors with integer instructions
        assert found.integer_share == pytest.approx(CONFIG.depth * CONFIG.tokens * macs / dense_macs(CONFIG), rel=1e-12)


def test_a_file_that_permits_no_rounding_keeps_its_activations_in_float(
    exported: tuple[Path, VisionTransformer], tmp_path: Path
) -> None:
    (path, shipped), model = exported, dense()
    proto = onnx.load(path)
    nodes = [node for node in proto.graph.node if node.op_type == "MatMulNBits"]
    assert len(nodes) == 4 * CONFIG.depth
    for node in nodes:
        next(each for each in node.attribute if each.name == "accuracy_level").i = 0
    onnx.save(proto, changed := tmp_path / "float.onnx")
    found = runtimes.get("onnxruntime").inspect(changed)
    assert (found.executed, found.integer_share) == ("int4", None)
    for name, layer in shipped.named_modules():
        if isinstance(layer, int4.Int4Linear):
            linear: Any = model.get_submodule(name)
            linear.weight.data = int4.unpack(layer.weight, layer.weight_scale, linear.in_features)
    got: Any = onnxruntime.InferenceSession(changed).run(None, {"images": IMAGES.numpy()})[0]
    np.testing.assert_allclose(got, logits(model), rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", [Int4(), Int4(group=64, skip=("fc2",)), Fp8()], ids=repr)
def test_saved_is_reloaded_and_small(method: Method, tmp_path: Path) -> None:
    which = variant.Variant((method,))
    model = prepared(method, dim=64, mlp_dim=256)
    torch_runtime = runtimes.get("torch")
    build(method, model, path := tmp_path / "model.pth")
    again = loading.restore(path)[0]
    assert (logits(again) == logits(variant.convert(model, which.methods))).all()
    assert (logits(again) == logits(model)).all()
    stored = sum(value.nbytes for name, value in again.state_dict().items() if "blocks" in name)
    whole = 4 * sum(value.numel() for name, value in model.state_dict().items() if "blocks" in name)
    assert stored / whole < (0.45 if getattr(method, "skip", ()) else 0.3)
    session = torch_runtime.load(path, "cpu", 1)
    assert np.array_equal(session.get(session.run(session.put(IMAGES.numpy()))), logits(again))
    assert torch_runtime.inspect(path).executed == f"{which.dtype}-simulated"


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    for method in (Int4(skip=("fc9",)), Fp8(skip=("fc9",))):
        with pytest.raises(InputError, match="skip 'fc9' fits no layer"):
            prepared(method)


def test_float8_is_as_near_as_its_format() -> None:
    x = normal(9, 48) * 10 ** normal(9, 1, seed=1)
    x[0], x[1, 0] = 0, 1e30
    levels, scale = float8.rounded(x)
    assert levels.dtype == torch.float8_e4m3fn
    got = levels.float() * scale
    assert got.isfinite().all()
    normal_range = x.abs() >= scale * 2**-6  # below, steps are as long as at the smallest normal number
    assert ((got - x).abs()[normal_range] <= x.abs()[normal_range] * 2**-4 * (1 + 1e-5)).all()
    assert ((got - x).abs() <= torch.where(normal_range, x.abs() * 2**-4, scale * 2**-10) * (1 + 1e-5)).all()


def test_the_hardware_is_asked_for_what_the_simulation_computes() -> None:
    (x, x_scale), (weight, weight_scale) = float8.rounded(normal(17, 48)), float8.rounded(normal(32, 48, seed=1))
    expected = float8.float_product(x, weight, x_scale, weight_scale)
    try:
        got = float8.hardware_product(x, weight, x_scale, weight_scale)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"this torch emulates it on no CPU: {error}")
    assert got.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, rtol=2**-7, atol=1e-3)


def test_layers_that_the_hardware_takes_not_stay_in_bf16_and_are_named(tmp_path: Path) -> None:
    for sizes, executed, named in (
        ({"dim": 64, "mlp_dim": 96}, "fp8-simulated", 0),
        ({"dim": 64, "mlp_dim": 72}, "fp8-simulated", 4),
        ({"dim": 40}, "bf16", 4),
    ):
        model = prepared(Fp8(), **sizes)
        build(Fp8(), model, path := tmp_path / "fp8.pth")
        found = runtimes.get("torch").inspect(path)
        assert found.executed == executed
        assert len([name for note in found.notes for name in note.split() if ".fc" in name or "attn" in name]) == named
