"""Integer layers: engines compute what torch simulates, calibration improves what it says, and faults are named."""

import contextlib
import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_engines import Case, allowed, cases, needs_exact, run, write
from torch import Tensor, nn

from baselines.errors import InputError
from baselines.macs import dense_macs, linear_macs
from baselines.vit import VisionTransformer, ViTConfig
from compress import runtimes, variant
from compress.checkpoints.checkpoint import Checkpoint
from compress.exporters.onnx import export_onnx
from compress.methods import Int8, Method
from compress.quantization import rescale, rounding
from compress.quantization.calibration import Recipe, calibrate, collect_rows, observe_rows, rounding_off, set_weights
from compress.quantization.importance import Rows
from compress.quantization.linear import QuantLinear, Rounding, quantized_layers
from compress.quantization.operators import channel_scale, quantize_weight
from compress.runtimes.ort_graph import count_integer_products

CONFIG = ViTConfig(image_size=(8, 8), channels=1, patch_size=2, dim=32, depth=2, heads=2, mlp_dim=48)
IMAGES = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
PLAIN = Recipe("mse", 99.99, rescale=False, reconstruct=False, correct_bias=False)


def model_of(**changes: Any) -> VisionTransformer:
    """A model whose norms and biases are none that do nothing."""
    torch.manual_seed(0)
    model = VisionTransformer(CONFIG.model_copy(update=changes)).eval()
    with torch.no_grad():
        for name, values in [*model.named_parameters(), *model.named_buffers()]:
            if values.ndim == 1 and values.is_floating_point():
                values.copy_(torch.rand_like(values) + (0.5 if name.endswith(("weight", "var")) else -0.5))
    return model


def content_of(model: VisionTransformer, methods: tuple[Method, ...] = ()) -> Checkpoint:
    described = tuple({"name": method.name, **method.model_dump()} for method in methods)
    classes = tuple(map(str, range(model.config.classes)))
    normal = (0.5,) * model.config.channels
    return Checkpoint(model.config, described, model.state_dict(), "noise", classes, normal, normal)


def calibrated(model: VisionTransformer, method: Int8, images: Tensor = IMAGES) -> VisionTransformer:
    model = variant.prepare(model, [method]).eval()
    method.calibrate(model, [images])
    return model


def largest(x: Tensor) -> float:
    return x.abs().max().item()


@settings(max_examples=60, deadline=None)
@given(cases())
@torch.no_grad()
def test_onnx_runtime_computes_what_torch_simulates(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    path = write(case.layer, tmp_path_factory.getbasetemp() / "layer.onnx")
    got, want = run("onnxruntime", path, case.x), case.layer(case.x)
    assert ((got - want).abs() <= allowed(case.layer, case.x)).all()
    if case.layer.input is not None:
        assert count_integer_products(path) == (1, 0)


@needs_exact
@pytest.mark.parametrize(
    "method",
    [Int8(), Int8(activations="token"), Int8(activations="tensor"), Int8(attention=True)],
    ids=["static", "token", "tensor", "attention"],
)
@torch.no_grad()
def test_the_exported_model_is_the_simulated_one(method: Int8, tmp_path: Path) -> None:
    model = variant.convert(calibrated(float_model := model_of(), method), [method])
    places = [module for module in model.modules() if isinstance(module, Rounding)]
    assert len(places) == CONFIG.depth * (8 if method.attention else 4 if method.activations == "static" else 0)
    export_onnx(model, path := tmp_path / "int8.onnx", IMAGES, content_of(model, (method,)))
    got, want = run("onnxruntime", path, IMAGES), model(IMAGES)
    # They differ only where float32 rounds at the middle between two levels, and in what follows from it.
    assert (got - want).abs().median() <= 1e-5 * largest(want)
    assert largest(got - want) <= 0.05 * largest(want)
    assert largest(got - float_model(IMAGES)) <= 0.1 * largest(want)
    inspection, linear = runtimes.get("onnxruntime").inspect(path), CONFIG.depth * CONFIG.tokens * linear_macs(CONFIG)
    assert inspection.executed == "int8"
    assert inspection.integer_share is not None
    least = linear / dense_macs(CONFIG)
    assert inspection.integer_share > least if method.attention else inspection.integer_share == pytest.approx(least)


class TestRescaling:
    @pytest.mark.parametrize(
        "changes",
        [{}, {"pool": "mean"}, {"pool": "seq", "tokenizer": "cct", "norm": "batch"},
         {"qk_norm": True, "layer_scale": 0.5, "registers": 2}],
        ids=["cls", "mean", "batch norm", "modern"],
    )  # fmt: skip
    @torch.no_grad()
    def test_float_is_left_as_it_was(self, changes: dict[str, Any]) -> None:
        model = variant.prepare(model_of(**changes), [Int8()]).eval()
        with rounding_off(model):
            before = model(IMAGES)
            weights = {name: layer.weight.clone() for name, layer in quantized_layers(model).items()}
            rows = collect_rows(model, quantized_layers(model), [IMAGES], weigh=False)
            rescale.rescale(model, rows, partial(observe_rows, recipe=PLAIN))
            assert largest(model(IMAGES) - before) <= 1e-4 * largest(before)
            again = collect_rows(model, quantized_layers(model), [IMAGES], weigh=False)
        changed = {
            name for name, layer in quantized_layers(model).items() if not torch.equal(layer.weight, weights[name])
        }
        assert {name.split(".")[-1] for name in changed} >= {"qkv", "fc1"}
        for name, kept in rows.items():  # what was kept is what the layers now get
            torch.testing.assert_close(kept.x, again[name].x, rtol=1e-3, atol=1e-4 * largest(kept.x))

    @torch.no_grad()
    def test_outlier_channels_cost_less(self) -> None:
        model, errors = model_of(), []
        for block in model.encoder.blocks:
            block.norm1.weight[3], block.norm2.weight[5] = 30.0, -30.0  # pyright: ignore
            block.attn.qkv.weight[:, 3] /= 30  # pyright: ignore
            block.mlp.fc1.weight[:, 5] /= 30  # pyright: ignore
        wanted = model(IMAGES)
        for recipe in (PLAIN, Recipe("mse", 99.99, rescale=True, reconstruct=False, correct_bias=False)):
            quantised = variant.prepare(model, [Int8()])
            calibrate(quantised, [IMAGES], recipe)
            errors.append((quantised(IMAGES) - wanted).square().mean().sqrt().item())
        assert errors[1] <= errors[0] / 2


class TestRounding:
    @settings(max_examples=25, deadline=None)
    @given(
        seed=st.integers(0, 1000),
        inputs=st.sampled_from([1, 7, 64, 130]),
        size=st.sampled_from([1e-4, 1.0, 1e25]),
        correlated=st.booleans(),
    )
    def test_levels_and_error(self, seed: int, inputs: int, size: float, correlated: bool) -> None:
        torch.manual_seed(seed)
        x = torch.randn(400, inputs)
        if correlated and inputs > 1:
            x = torch.randn(400, 4) @ torch.randn(4, inputs) + 0.1 * x
        x[:, inputs // 2 :: 3] = 0  # dead inputs
        weight = torch.randn(12, inputs)
        weight[3] = 0
        scale = channel_scale(weight)
        found = rounding.reconstruct(weight.clone(), scale, x * size)
        levels = found / scale[:, None]
        assert (levels - levels.round()).abs().max() <= 1e-3
        assert levels.abs().max() <= 127 + 1e-3
        assert torch.equal(quantize_weight(found, scale) * scale[:, None], found)  # packing it loses nothing

        def error(rounded: Tensor) -> float:
            return (x @ (rounded - weight).t()).square().mean().item()

        nearest = error(quantize_weight(weight, scale) * scale[:, None])
        assert error(found) <= nearest * (0.7 if correlated and inputs > 7 else 1) * (1 + 1e-4) + 1e-12

    def test_inputs_that_are_all_dead(self) -> None:
        weight = torch.randn(5, 8)
        found = rounding.reconstruct(weight.clone(), scale := channel_scale(weight), torch.zeros(10, 8))
        assert torch.equal(found, quantize_weight(weight, scale) * scale[:, None])

    def test_layers_too_wide_for_it_are_rounded_to_the_nearest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rounding, "WIDEST", 7)
        weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
        found = rounding.reconstruct(weight.clone(), scale := channel_scale(weight), torch.randn(10, 8))
        assert torch.equal(found, quantize_weight(weight, scale) * scale[:, None])

    @pytest.mark.parametrize("kind", ["static", "token"])
    @torch.no_grad()
    def test_biases_take_the_mean_error_off(self, kind: Any) -> None:
        torch.manual_seed(0)
        linear, x = nn.Linear(24, 10), torch.rand(300, 24).square()
        layer, wanted = QuantLinear(copy.deepcopy(linear), kind).eval(), linear(x).mean(0)
        if layer.input is not None:
            layer.input.set_range(0.0, 0.6)  # much is clipped
        set_weights({"it": layer}, {"it": Rows(x, torch.ones(len(x)))}, PLAIN)
        before = largest(layer(x).mean(0) - wanted)
        set_weights(
            {"it": layer}, {"it": Rows(x, torch.ones(len(x)))}, Recipe("mse", 99.99, False, False, correct_bias=True)
        )
        assert largest(layer(x).mean(0) - wanted) <= (1e-6 if kind == "static" else before / 2)


class TestCalibration:
    @torch.no_grad()
    def test_cuts_into_batches_leave_no_trace_in_scales(self) -> None:
        whole, cut = (variant.prepare(model_of(), [Int8()]) for _ in range(2))
        calibrate(whole, [IMAGES], PLAIN)
        calibrate(cut, [*IMAGES.split([1, 30, 33])], PLAIN)
        for name, layer in quantized_layers(whole).items():
            other = cut.get_submodule(name)
            assert isinstance(other, QuantLinear)
            assert layer.input is not None
            assert other.input is not None
            torch.testing.assert_close(layer.input.scale, other.input.scale, rtol=1e-4, atol=0)
            assert abs(int(layer.input.zero_point) - int(other.input.zero_point)) <= 1
            assert torch.equal(layer.weight_scale, other.weight_scale)

    def test_flags_are_left_alone_also_by_a_fault(self) -> None:
        method = Int8(attention=True)
        model = variant.prepare(model_of(), [method])
        layers, place = quantized_layers(model), next(m for m in model.modules() if isinstance(m, Rounding))
        layers["encoder.blocks.1.mlp.fc2"].active = place.active = False
        for images in (IMAGES, IMAGES * float("inf")):
            with contextlib.suppress(InputError):
                method.calibrate(model, [images])
            assert [name for name, layer in layers.items() if not layer.active] == ["encoder.blocks.1.mlp.fc2"]
            assert [m for m in model.modules() if isinstance(m, Rounding) and not m.active] == [place]
            assert not any(module._forward_pre_hooks for module in model.modules())

    @pytest.mark.parametrize(
        ("images", "says"),
        [
            ([], "at least one training image"),
            ([IMAGES[:0]], "at least one training image"),
            ([IMAGES, IMAGES.where(IMAGES < 2, torch.nan)], "not finite; check the data"),
            ([torch.ones(3, 1, 8, 8), torch.ones(2, 1, 8, 8)], "all one colour"),
            ([torch.randn(3, 1, 16, 16)], "1x16x16 and 1x8x8"),
            ([torch.randn(3, 3, 8, 8)], "3x8x8 and 1x8x8"),
        ],
        ids=["none", "empty", "nan", "constant", "size", "channels"],
    )
    def test_images_that_say_nothing(self, images: list[Tensor], says: str) -> None:
        with pytest.raises(InputError, match=says):
            Int8().calibrate(variant.prepare(model_of(), [Int8()]), images)

    @pytest.mark.parametrize("activations", ["static", "token", "tensor"])
    def test_a_layer_that_overflows_is_named(self, activations: Any) -> None:
        model, method = model_of(), Int8(activations=activations)
        model.encoder.blocks[1].mlp.fc1.bias.data[7] = torch.inf  # pyright: ignore
        with pytest.raises(InputError, match=r"^encoder.blocks.1.mlp.fc2: calibration met .* not finite"):
            calibrated(model, method)

    def test_one_image_and_images_of_one_colour_each_are_enough(self) -> None:
        for images in (IMAGES[:1], torch.linspace(-1, 1, 4)[:, None, None, None].expand(4, 1, 8, 8)):
            assert calibrated(model_of(), Int8(), images)(IMAGES).isfinite().all()

    def test_skipped_layers_stay_as_they_are(self) -> None:
        method = Int8(skip=("fc2", "blocks.0.attn.*"))
        model = variant.prepare(model_of(), [method])
        left = [name for name, each in model.encoder.blocks.named_modules() if isinstance(each, nn.Linear)]
        assert left == ["0.attn.qkv", "0.attn.proj", "0.mlp.fc2", "1.mlp.fc2"]
        assert len(quantized_layers(calibrated(model_of(), method))) == 4
        with pytest.raises(InputError, match="skip 'fc3' fits no layer; the layers are"):
            variant.prepare(model_of(), [Int8(skip=("fc3",))])
