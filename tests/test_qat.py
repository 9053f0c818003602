"""int8 in training: it starts where calibration ends, learns its scales, and ships what was trained."""

import copy
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from integer_engines import allowed, needs_exact, openvino, run, write
from torch import Tensor, nn

from baselines.data import Data, TensorSplit
from baselines.errors import InputError
from baselines.sources import load
from baselines.train import Step, TrainConfig, fit
from baselines.vit import VisionTransformer, ViTConfig
from compress import config, loading, variant
from compress.checkpoints import checkpoint
from compress.exporters.onnx import export_onnx
from compress.methods import AViT, Distill, Int8, Qat
from compress.quantization.importance import watch_values
from compress.quantization.linear import QuantLinear, apply_log_step, quantized_layers
from compress.quantization.operators import straight_through
from compress.runtimes.ort_graph import count_integer_products
from compress.training import finetuning
from compress.training.data import sample_images

CPU = torch.device("cpu")
CONFIG = ViTConfig(image_size=(8, 8), channels=1, patch_size=2, dim=32, depth=2, heads=2, mlp_dim=64, tokenizer="conv")
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
    images: Tensor  # all of them, normalised


@cache
def digits() -> tuple[VisionTransformer, Data]:
    torch.manual_seed(0)
    data, model = load("digits", (8, 8), 1), VisionTransformer(CONFIG)
    fit(model, data, TRAIN, device=CPU, seed=0)
    return model, data


@pytest.fixture(scope="module", params=METHODS)
def made(request: pytest.FixtureRequest) -> Made:
    method, (whole, data) = METHODS[request.param], digits()
    images = [images for split in (data.train, data.test) for images, _ in data.batches(split, 2000, CPU)]
    return Made(whole, learn(whole, method, data, TUNE), method, data, torch.cat(images))


def learn(start: VisionTransformer, method: Qat, data: Data, training: TrainConfig) -> VisionTransformer:
    images, further = sample_images(data, 128), {"device": CPU, "seed": 0, "title": ""}
    return finetuning.apply(start, (), [method], data, teacher=start, training=training, calibration=images, **further)[
        0
    ]


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
    method.initialize(model, sample_images(data, 48))
    return model, whole, data


class TestStart:
    def test_it_is_what_calibration_finds(self) -> None:
        model, whole, data = begun(Qat())
        int8 = Int8(reconstruct=False)
        calibrated = variant.prepare(whole, [int8])
        int8.calibrate(calibrated, sample_images(data, 48))
        assert all(isinstance(layer, QuantLinear) for layer in quantized_layers(model).values())
        assert quantized_layers(model).keys() == quantized_layers(calibrated).keys()
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
            output = model.train().compute_output(images)
            taught = whole.compute_output(images)
            terms = method.loss_terms(Step(model, images, labels, output.logits, output, whole, taught))
            sum(terms.values(), torch.zeros(())).backward()
            for name, layer in quantized_layers(model).items():
                assert layer.input is not None
                assert (layer.weight_log_step is None) == (recipe == "short")
                learned = [layer.weight, layer.bias, layer.input.log_step, layer.weight_log_step]
                for each in learned[: 3 if recipe == "short" else 4]:
                    assert each is not None
                    assert each.grad is not None, name
                    assert each.grad.isfinite().all(), name
                    assert each.grad.any(), name

    def test_what_the_settings_change(self) -> None:
        settings = TrainConfig(lr=0.01, precision="bf16", epochs=7)
        assert Qat(lr=0.2).adapt_training(settings) == TrainConfig(lr=0.002, precision="fp32", epochs=7)
        assert Qat(weight=0.25).label_weight() == 0.75


class TestTraining:
    @pytest.mark.parametrize("factor", [8.0, 0.25])
    def test_scales_that_are_far_off_are_learned_back(self, factor: float) -> None:
        torch.manual_seed(0)
        linear, x = nn.Linear(48, 32), torch.randn(256, 48)
        layer, wanted = QuantLinear(copy.deepcopy(linear)).train(), linear(x).detach()
        assert layer.input is not None
        layer.input.set_range(x.min().item(), x.max().item())
        layer.learn_scales()
        scales = [layer.input.log_step, layer.weight_log_step]
        start = (layer(x) - wanted).square().mean().item()
        layer.input.scale.mul_(factor)
        layer.weight_scale.mul_(factor)
        assert (layer(x) - wanted).square().mean().item() > 30 * start
        optimizer = torch.optim.Adam([each for each in scales if each is not None], lr=0.05)
        for _ in range(100):
            optimizer.zero_grad()
            (layer(x) - wanted).square().mean().backward()
            optimizer.step()
        assert (layer(x) - wanted).square().mean().item() < 2 * start
        layer.fold_log_step()
        assert ((layer.weight_scale * 127 / linear.weight.abs().amax(1)).log().abs() < 0.5).all()

    def test_gradients_of_scales_are_those_of_lsq(self) -> None:
        x, log_step = torch.tensor([[0.3, -0.84, 9.0, -7.0]]), torch.zeros((), requires_grad=True)
        scale = apply_log_step(torch.tensor(0.5), log_step, 4)
        y = straight_through(x, scale, torch.tensor(-4.0), torch.tensor(6.0))
        y.backward(torch.tensor([[1.0, 2.0, 3.0, 5.0]]))
        inside = 1.0 * (1 - 0.6) + 2.0 * (-2 + 1.68)  # rounded minus exact level; the others are clipped
        assert log_step.grad is not None
        assert log_step.grad.item() == pytest.approx(0.5 * (inside + 3.0 * 6 + 5.0 * -4) / (4 * 127) ** 0.5, rel=1e-5)

    def test_a_bad_start_is_made_good(self) -> None:
        model, whole, data = begun(method := Qat())
        images, labels = next(data.batches(data.train, 48, CPU))
        for name, scale in model.named_buffers():
            scale.mul_(16 if name.endswith("scale") else 1)
        settings = TUNE.model_copy(update={"epochs": 12, "batch_size": 12})
        history = fit(model, data, settings, device=CPU, seed=0, terms=[method.loss_terms], teacher=whole)
        assert history[-1]["loss"] < 0.7 * history[0]["loss"]
        assert (model(images).argmax(1) == labels).all()

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
            content = loading.pack(model, [made.method], made.data, CONFIG, converted=converted)
            checkpoint.save(path := tmp_path / "qat.pth", content)
            again, which, _ = loading.restore(path)
            assert which.methods == (made.method,)
            with torch.no_grad():
                assert torch.equal(again(made.images), model(made.images))

    @torch.no_grad()
    def test_weights_are_levels_and_converting_changes_nothing(self, made: Made) -> None:
        shipped = variant.convert(made.trained, [made.method])
        for name, layer in quantized_layers(made.trained).items():
            packed = shipped.get_submodule(name)
            assert isinstance(packed, QuantLinear)
            assert layer.weight_log_step is None
            assert {name for name, _ in packed.named_parameters()} == {"bias"}
            levels = layer.weight / layer.weight_scale[:, None]
            if made.method.recipe == "short":
                assert (levels - levels.round()).abs().max() <= 1e-4
            assert torch.equal(levels.round().clamp(-127, 127).t(), packed.weight.float())
        torch.testing.assert_close(shipped(made.images), made.trained(made.images), rtol=0, atol=1e-4)

    @needs_exact
    @torch.no_grad()
    def test_every_layer_in_onnx_runtime_on_what_it_sees(self, made: Made, tmp_path: Path) -> None:
        shipped, seen = variant.convert(made.trained, [made.method]), {}
        layers = quantized_layers(shipped)
        watch_values(shipped, layers, [made.images[:64]], lambda name, x, *_: seen.update({name: x}), weighed=0)
        for name, layer in layers.items():
            rounded = layer.scale_input(seen[name])
            got = run("onnxruntime", write(layer, tmp_path / "layer.onnx"), rounded)
            assert ((got - layer(seen[name])).abs() <= allowed(layer, rounded)).all(), name

    @needs_exact
    @torch.no_grad()
    def test_engines_give_the_classes_that_were_trained(self, made: Made, tmp_path: Path) -> None:
        shipped = variant.convert(made.trained, [made.method])
        content = loading.pack(shipped, [made.method], made.data, CONFIG)
        export_onnx(shipped, path := tmp_path / "qat.onnx", made.images[:64], content)
        assert count_integer_products(path) == (4 * CONFIG.depth, 0)
        trained, whole = made.trained(made.images), made.whole(made.images)
        found = {"onnxruntime": run("onnxruntime", path, made.images)}
        if importlib.util.find_spec("openvino"):
            found["openvino"] = openvino(path, made.images, tmp_path)
        for engine, logits in found.items():
            assert (logits.argmax(1) == trained.argmax(1)).float().mean() >= 0.999, engine
        assert (trained.argmax(1) == whole.argmax(1)).float().mean() >= 0.97


class TestNames:
    def test_it_stands_last(self) -> None:
        assert variant.parse("vit_qat").methods == (Qat(),)
        assert [type(method) for method in variant.parse("avit_distill_qat").methods] == [AViT, Distill, Qat]
        assert variant.parse("qat", {"qat": {"lr": 0.1}}).methods == (Qat(lr=0.1),)
        for name, says in (
            ("qat_avit", "write 'avit_qat'"),
            ("int8_qat", "at most one method"),
            ("qat_bf16", "at most"),
        ):
            with pytest.raises(InputError, match=says):
                variant.parse(name)

    def test_a_configuration(self, tmp_path: Path) -> None:
        path = tmp_path / "bench.toml"
        path.write_text('variants = ["vit", "qat"]\n[methods.qat]\nlr = 0.1\nrecipe = "short"\nskip = ["fc2"]\n')
        (method,) = variant.parse("qat", config.read(path).methods).methods
        assert method == Qat(lr=0.1, recipe="short", skip=("fc2",))
        for wrong in ("lr = 0", 'recipe = "long"', "weight = 2", "steps = 3"):
            path.write_text(f"[methods.qat]\n{wrong}\n")
            with pytest.raises(InputError, match=wrong.split()[0]):
                variant.parse("qat", config.read(path).methods)
