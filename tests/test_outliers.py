"""int8 of models with outliers: errors are weighed by what they do to the answers, and large channels cost little."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from baselines.vit import Block, VisionTransformer, ViTConfig
from compress import variant
from compress.checkpoints.checkpoint import Checkpoint
from compress.exporters.onnx import export_onnx
from compress.methods import Int8
from compress.quantization.calibration import rounding_off
from compress.quantization.histogram import squared_error
from compress.quantization.importance import sample_rows, watch_values
from compress.quantization.linear import quantized_layers
from compress.quantization.observers import SquaredError
from compress.quantization.products import multiplies_exactly, use_integer_kernels
from compress.quantization.sensitivity import sqnr_db
from compress.runtimes.client import Worker
from compress.runtimes.ort_graph import count_integer_products

CONFIG = ViTConfig(image_size=(16, 16), channels=1, patch_size=4, dim=32, depth=3, heads=2, mlp_dim=128)
IMAGES = torch.randn(96, 1, 16, 16, generator=torch.Generator().manual_seed(1))
CALIBRATION, TEST = IMAGES[:64], IMAGES[64:]


def model_of(plant: str) -> VisionTransformer:
    """A model with few channels behind each norm that are 200 times as large as the others and do no more, or with
    hidden units that are on for the class token alone, and about 300 there."""
    torch.manual_seed(0)
    model = VisionTransformer(CONFIG).eval()
    with torch.no_grad():
        for block in model.encoder.blocks:
            assert isinstance(block, Block)
            if plant == "channels":
                for norm, linear in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
                    norm.get_parameter("weight")[:2] *= 200
                    linear.weight[:, :2] /= 200
            else:
                seen: list[Tensor] = []
                watch_values(
                    model, {"fc1": block.mlp.fc1}, [CALIBRATION], lambda _, x, *__, to=seen: to.append(x), weighed=0
                )
                first, others = seen[0][:, 0].mean(0), seen[0][:, 1:].flatten(0, 1).mean(0)
                direction = (first - others) / (first - others).square().sum()
                block.mlp.fc1.weight[0] = 1200 * direction
                block.mlp.fc1.bias[0] = -1200 * (direction @ (others + 0.75 * (first - others)))
                block.mlp.fc2.weight[:, 0] /= 300
    return model


def calibrated(model: VisionTransformer, method: Int8) -> VisionTransformer:
    model = variant.prepare(model, [method]).eval()
    method.calibrate(model, [CALIBRATION])
    return model


class TestImportance:
    def test_gradients_in_closed_form(self) -> None:
        torch.manual_seed(0)
        first, second = nn.Linear(5, 4), nn.Linear(4, 1)  # of one logit, whose sign does not matter
        seen: dict[str, tuple[Tensor, ...]] = {}

        def note(name: str, x: Tensor, *weights: Tensor | None) -> None:
            assert all(each is not None for each in weights) == (len(x) == 6)
            if len(x) == 6:
                seen[name] = (x, *(each for each in weights if each is not None))

        x = torch.randn(9, 5)
        watch_values(nn.Sequential(first, second), {"first": first, "second": second}, [x], note, weighed=6, at_once=6)
        assert not first._forward_hooks
        assert all(each.grad is None for each in first.parameters())
        assert seen["first"][0].equal(x[:6])
        torch.testing.assert_close(seen["first"][1], (second.weight @ first.weight).square().expand(6, 5))
        torch.testing.assert_close(seen["second"][1], second.weight.square().expand(6, 4))
        assert seen["second"][2].equal(torch.ones(6, 1))

    def test_rows_stand_for_all_of_them(self) -> None:
        weight = torch.rand(2000, generator=torch.Generator().manual_seed(0))
        weight[[3, 700]] = 900
        weight /= weight.mean()
        rows = sample_rows(torch.arange(2000.0)[:, None], weight, 200)
        for value, found in (
            (weight.sum(), rows.weight.mean() * 2000),
            (weight[3], rows.weight[rows.x[:, 0] == 3].sum() * 10),
        ):
            assert found.item() == pytest.approx(value.item(), rel=0.1)
        assert rows.weight.max() < 2


class TestRanges:
    def test_a_weight_of_nine_is_being_seen_nine_times(self) -> None:
        x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
        weighed, often, plain = SquaredError(16), SquaredError(16), SquaredError(16)
        weighed.update(x, torch.where(x > 2, 9.0, 1.0))
        often.update(torch.cat([x, x[x > 2].repeat(8)]))
        plain.update(x)
        assert weighed.range() == often.range()
        assert weighed.range()[1] > plain.range()[1]

    def test_clipped_values_count_for_more(self) -> None:
        low, high = torch.tensor([0.0]), torch.tensor([1.0])
        edges, counts = torch.tensor([0.0, 1.0, 2.0, 3.0]).double(), torch.eye(3).double()
        plain, more = (
            torch.stack([squared_error(low, high, edges, each, 256, factor)[0] for each in counts]) for factor in (1, 8)
        )
        assert plain[1:].tolist() == pytest.approx([1 / 3, 7 / 3])  # the integrals of (x - 1)^2
        assert more.tolist() == pytest.approx([plain[0].item(), 8 / 3, 56 / 3])


class TestOutliers:
    @pytest.mark.parametrize("plant", ["channels", "token"])
    @torch.no_grad()
    def test_cost_little(self, plant: str) -> None:
        model = model_of(plant)
        wanted = model(TEST)
        plain = Int8(observer="minmax", rescale=False, reconstruct=False, correct_bias=False, weigh=False)
        lost, kept = (sqnr_db(wanted, calibrated(model, each)(TEST)) for each in (plain, Int8()))
        assert lost < 20
        assert kept > 30

    @torch.no_grad()
    def test_a_factor_before_fc2_changes_nothing_in_float_and_is_what_engines_compute(self, tmp_path: Path) -> None:
        method, model = Int8(), model_of("token")
        made = calibrated(model, Int8(reconstruct=False, correct_bias=False))
        layers = quantized_layers(made)
        assert {name.split(".")[-1] for name, layer in layers.items() if layer.factor is not None} == {"fc2"}
        with rounding_off(made):
            assert sqnr_db(model(TEST), made(TEST)) > 50  # the tokenizer is in 16 bits

        shipped = variant.convert(made, [method])
        again = variant.convert(variant.prepare(VisionTransformer(CONFIG), [method]), [method]).eval()
        again.load_state_dict(shipped.state_dict())
        assert again(TEST).equal(shipped(TEST))
        content = Checkpoint(CONFIG, (), shipped.state_dict(), "noise", tuple("0123456789"), (0.5,), (0.5,))
        export_onnx(shipped, path := tmp_path / "int8.onnx", CALIBRATION, content)
        assert count_integer_products(path) == (4 * CONFIG.depth, 0)
        with Worker.start("onnxruntime", path, "cpu", 1) as worker:
            worker.ready()
            got = torch.from_numpy(worker.logits(TEST.numpy()))
        assert sqnr_db(shipped(TEST), got) > 40
        if multiplies_exactly(torch.device("cpu")):
            use_integer_kernels(whole := copy.deepcopy(shipped), torch.device("cpu"))
            assert sqnr_db(shipped(TEST), whole(TEST)) > 60

        plain = Int8(rescale=False)
        older = calibrated(model, plain).state_dict()  # as files without a factor are
        again.load_state_dict(variant.convert(calibrated(model, plain), [plain]).state_dict())
        assert not any("factor" in name for name in [*older, *again.state_dict()])
