"""int8 in training: it starts where calibration ends, learns its scales, and ships what was trained."""

import copy
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from integer_engines import allowed, openvino, run, write
from torch import Tensor

from baselines.data import Data, TensorSplit
from baselines.errors import InputError
from baselines.sources import load
from baselines.train import Step, TrainConfig, fit
from baselines.vit import VisionTransformer, ViTConfig
from compress import checkpoint, config, variant
from compress.export import export_onnx
from compress.images import sample_images
from compress.integers.calibration import watching
from compress.integers.linear import QuantLinear, layers_of
from compress.methods import AViT, Distill, Int8, Qat
from compress.runtimes.ort import integer_products

CPU = torch.device("cpu")
CONFIG = ViTConfig(image_size=8, channels=1, patch_size=2, dim=32, depth=2, heads=2, mlp_dim=64, tokenizer="conv")
TRAIN = TrainConfig(epochs=8, batch_size=64, lr=4e-3, warmup_epochs=1, ema=0.9, crop_padding=0, flip=False,
                    precision="fp32")  # fmt: skip
TUNE = TRAIN.model_copy(update={"epochs": 1, "warmup_epochs": 0.2})
METHODS = {recipe: Qat(recipe=recipe) for recipe in ("full", "short")}
TINY = CONFIG.model_copy(update={"dim": 16, "mlp_dim": 24, "classes": 3})


@dataclass
class Made:
    """A float model, and what training in integers made of it."""

    whole: VisionTransformer
    trained: VisionTransformer
    method: Qat
    data: Data

    @property
    def images(self) -> Tensor:
        """All of them, normalised."""
        parts = (self.data.batches(split, 2000, CPU) for split in (self.data.train, self.data.test))
        return torch.cat([images for part in parts for images, _ in part])


@cache
def digits() -> tuple[VisionTransformer, Data]:
    torch.manual_seed(0)
    data, model = load("digits", (8, 8), 1), VisionTransformer(CONFIG)
    fit(model, data, TRAIN, device=CPU, seed=0)
    return model, data


@pytest.fixture(scope="module", params=METHODS)
def made(request: pytest.FixtureRequest) -> Made:
    method, (whole, data) = METHODS[request.param], digits()
    return Made(whole, learn(whole, method, data, TUNE), method, data)


def learn(start: VisionTransformer, method: Qat, data: Data, training: TrainConfig) -> VisionTransformer:
    return variant.apply(
        start,
        (),
        [method],
        data,
        teacher=start,
        training=training,
        calibration=sample_images(data, 128),
        device=CPU,
        seed=0,
        title="",
    )[0]


def small() -> tuple[VisionTransformer, Data]:
    """A model that was not trained, and images of three shades."""
    torch.manual_seed(0)
    labels = torch.arange(48) % 3
    pixels = torch.randint(0, 90, (48, 1, 8, 8)) + 80 * labels[:, None, None, None]
    split = TensorSplit(pixels.to(torch.uint8), labels)
    return VisionTransformer(TINY).eval(), Data("shades", ("a", "b", "c"), split, split, (0.5,), (0.3,))


def begun(method: Qat) -> tuple[VisionTransformer, VisionTransformer, Data]:
    """A model where training in integers starts, the float one, and its data."""
    whole, data = small()
    model = variant.prepare(whole, [method])
    method.begin(model, sample_images(data, 48))
    return model, whole, data


class TestStart:
    def test_it_is_what_calibration_finds(self) -> None:
        model, whole, data = begun(Qat())
        int8 = Int8(reconstruct=False)
        calibrated = variant.prepare(whole, [int8])
        int8.calibrate(calibrated, sample_images(data, 48))
        assert all(isinstance(layer, QuantLinear) for layer in layers_of(model).values())
        assert layers_of(model).keys() == layers_of(calibrated).keys()
        state = model.state_dict()
        for name, value in calibrated.state_dict().items():
            if name.startswith("encoder"):
                assert torch.equal(state.pop(name), value), name
        learned = [name for name in state if name.endswith("log_step")]
        assert len(learned) == 2 * 4 * TINY.depth
        assert not any(state[name].any() for name in learned)

    def test_all_that_is_to_learn_has_a_gradient(self) -> None:
        for recipe, method in METHODS.items():
            model, whole, data = begun(method)
            images, labels = next(data.batches(data.train, 48, CPU))
            logits, aux = model.train().forward_aux(images)
            taught = whole.forward_aux(images)
            terms = method.loss_terms(Step(model, images, labels, logits, aux, *taught, 0.0, whole))
            sum(terms.values(), torch.zeros(())).backward()
            for name, layer in layers_of(model).items():
                assert layer.input is not None
                learned = [layer.weight, layer.bias, layer.input.log_step, layer.weight_log_step]
                assert (learned.pop() is None) == (recipe == "short")
                for each in [*learned, *([layer.weight_log_step] if recipe == "full" else [])]:
                    assert each is not None and each.grad is not None, name
                    assert each.grad.isfinite().all()
                    assert each.grad.any(), name

    def test_what_the_settings_change(self) -> None:
        settings = TrainConfig(lr=0.01, precision="bf16", epochs=7)
        assert Qat(lr=0.2).training(settings) == TrainConfig(lr=0.002, precision="fp32", epochs=7)
        assert Qat(weight=0.25).label_weight() == 0.75


class TestTraining:
    def test_scales_far_too_large_are_learned_back(self) -> None:
        whole, data = digits()
        method = Qat()
        model = variant.prepare(whole, [method])
        method.begin(model, sample_images(data, 128))
        layer = layers_of(model)["encoder.blocks.1.mlp.fc1"]
        for each in layers_of(model).values():
            assert each.input is not None
            each.weight_scale.mul_(8)
            each.input.scale.mul_(8)
        history = fit(model, data, TUNE.model_copy(update={"epochs": 3}), device=CPU, seed=0,
                      terms=[method.loss_terms], teacher=whole)  # fmt: skip
        print([h["loss"] for h in history], [h["float"] for h in history])
        for n, each in layers_of(model).items():
            print(n, each.input.log_step.item(), each.weight_log_step.mean().item())
        assert history[-1]["loss"] < history[0]["loss"]

    def test_the_same_seed_gives_the_same_bits(self) -> None:
        whole, data = small()
        for method in METHODS.values():
            first, second = (learn(whole, method, data, TUNE.model_copy(update={"batch_size": 8})) for _ in "12")
            start = variant.prepare(whole, [method]).state_dict()
            for name, value in first.state_dict().items():
                assert torch.equal(value, second.state_dict()[name]), name
            assert not torch.equal(first.head.weight, start["head.weight"])


class TestWhatShips:
    def test_a_saved_model_gives_the_same_logits(self, made: Made, tmp_path: Path) -> None:
        for converted in (False, True):
            model = variant.convert(made.trained, [made.method]) if converted else made.trained
            content = variant.pack(model, [made.method], made.data, CONFIG, converted=converted)
            checkpoint.save(path := tmp_path / "qat.pth", content)
            again, which, _ = variant.restore(path)
            assert which.methods == (made.method,)
            with torch.no_grad():
                assert torch.equal(again(made.images), model(made.images))

    @torch.no_grad()
    def test_weights_are_levels_and_converting_changes_nothing(self, made: Made) -> None:
        shipped = variant.convert(made.trained, [made.method])
        for name, layer in layers_of(made.trained).items():
            packed = shipped.get_submodule(name)
            assert isinstance(packed, QuantLinear)
            assert layer.weight_log_step is None or not layer.weight_log_step.any()
            assert {name for name, _ in packed.named_parameters()} == {"bias"}
            levels = layer.weight / layer.weight_scale[:, None]
            if made.method.recipe == "short":
                assert (levels - levels.round()).abs().max() <= 1e-4
            assert torch.equal(levels.round().clamp(-127, 127).t(), packed.weight.float())
        torch.testing.assert_close(shipped(made.images), made.trained(made.images), rtol=0, atol=1e-4)

    @torch.no_grad()
    def test_every_layer_in_onnx_runtime_on_what_it_sees(self, made: Made, tmp_path: Path) -> None:
        shipped, seen = variant.convert(made.trained, [made.method]), {}
        with watching(dict(layers_of(shipped)), seen.__setitem__):
            shipped(made.images[:64])
        for name, layer in layers_of(shipped).items():
            got = run("onnxruntime", write(layer, tmp_path / "layer.onnx"), seen[name])
            assert ((got - layer(seen[name])).abs() <= allowed(layer, seen[name])).all(), name

    @torch.no_grad()
    def test_engines_give_the_classes_that_were_trained(self, made: Made, tmp_path: Path) -> None:
        shipped = variant.convert(made.trained, [made.method])
        content = variant.pack(shipped, [made.method], made.data, CONFIG)
        export_onnx(shipped, path := tmp_path / "qat.onnx", made.images[:64], content)
        assert integer_products(path) == (4 * CONFIG.depth, 0)
        trained, whole = made.trained(made.images), made.whole(made.images)
        found = {"onnxruntime": run("onnxruntime", path, made.images)}
        if importlib.util.find_spec("openvino"):
            found["openvino"] = openvino(path, made.images, tmp_path)
        for engine, logits in found.items():
            print(engine, (logits.argmax(1) == trained.argmax(1)).float().mean(), (logits-trained).abs().max(), (logits-trained).abs().median())
            assert (logits.argmax(1) == trained.argmax(1)).float().mean() >= 0.999, engine
        print((trained.argmax(1) == whole.argmax(1)).float().mean())
