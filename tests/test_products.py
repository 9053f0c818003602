"""Products of integers in torch: the same levels as the simulation, and counted as they run."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from baselines.macs import dense_macs, linear_macs
from baselines.vit import VisionTransformer, ViTConfig
from compress import loading, runtimes, variant
from compress.checkpoints.checkpoint import Checkpoint
from compress.methods import Int8
from compress.quantization.linear import Activations, QuantLinear, quantized_layers, replace_linears
from compress.quantization.operators import bounds
from compress.quantization.products import (
    IntegerLinear,
    integer_macs,
    multiplies_exactly,
    supports_layer,
    use_integer_kernels,
)
from compress.runtimes import BuildInputs
from compress.runtimes.compiled import Compiled
from compress.runtimes.torch_session import compile_model
from compress.training import finetuning

CPU = torch.device("cpu")
KINDS: tuple[Activations, ...] = ("static", "token", "tensor")
pytestmark = pytest.mark.skipif(not multiplies_exactly(CPU), reason="this processor's int8 products overflow")


def packed(linear: nn.Linear, activations: Activations, signed: bool, low: float, high: float) -> QuantLinear:
    layer = QuantLinear(linear, activations, signed)
    if layer.input is not None:
        layer.input.set_range(low, high)
    layer.pack_()
    return layer.eval()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.sampled_from([(1, 1, 1), (3, 7, 5), (19, 64, 24), (2, 301, 33)]),
    limits=st.sampled_from([(-1.0, 1.0), (0.0, 3.0), (-3.0, 0.0), (-0.1, 4.0)]),  # zero points 128, 0, 255 and 6
    outlier=st.sampled_from([0.0, 1e4]),
    activations=st.sampled_from(KINDS),
    signed=st.booleans(),
)
def test_integers_give_what_was_simulated(
    seed: int,
    shape: tuple[int, int, int],
    limits: tuple[float, float],
    outlier: float,
    activations: Activations,
    signed: bool,
) -> None:
    torch.manual_seed(seed)
    rows, inputs, outputs = shape
    linear = nn.Linear(inputs, outputs, bias=seed % 3 > 0)
    with torch.no_grad():
        linear.weight[0] = 0
    layer = packed(linear, activations, signed, *limits)
    x = torch.randn(2, rows, inputs) * 2
    x[0, 0, 0] += outlier
    x[1, -1] = 0
    with torch.no_grad():
        want, got = layer(x), IntegerLinear(layer)(x)
    assert got.shape == want.shape
    assert (got - want).abs().max() <= 2e-6 * largest_sum(layer, x)


def largest_sum(layer: QuantLinear, x: Tensor) -> float:
    """Bound of what the simulation adds up: its rounding errors are relative to that, not to the result."""
    x = x if layer.input is None else layer.input(x)
    return (x.abs() @ (layer.weight.float() * layer.weight_scale).abs()).max().item() + 1


@pytest.mark.parametrize("signed", [False, True])
def test_the_extreme_levels_do_not_overflow(signed: bool) -> None:
    linear = nn.Linear(512, 16, bias=False)
    linear.weight.data = torch.where(torch.arange(512) % 2 == 0, 1.0, -1.0).repeat(16, 1)
    layer = packed(linear, "static", signed, -1.0, 1.0)
    assert layer.input is not None
    low, high = bounds(layer.input.zero_point)
    x = torch.where(torch.arange(512) % 2 == 0, 2.0, -2.0)[None]  # clipped at both ends
    levels = 256 * (high - low) * 127  # all products have one sign
    got = IntegerLinear(layer)(x)
    torch.testing.assert_close(got, (levels * layer.input.scale * layer.weight_scale).expand(1, 16))


def test_no_row_at_all() -> None:
    for kind in ("static", "token"):
        assert IntegerLinear(packed(nn.Linear(8, 5), kind, False, -1.0, 1.0))(torch.zeros(0, 8)).shape == (0, 5)


CONFIG = ViTConfig(image_size=(8, 8), channels=1, patch_size=2, dim=32, depth=2, heads=2, mlp_dim=44)


def model_of(activations: Activations) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(CONFIG).eval()
    replace_linears(model, (), lambda linear: QuantLinear(linear, activations))
    for layer in quantized_layers(model).values():
        if layer.input is not None:
            layer.input.set_range(-3.0, 3.0)
    return model


@torch.no_grad()
def test_every_packed_layer_is_swapped_and_every_product_counted() -> None:
    model, images = model_of("static"), torch.randn(3, 1, 8, 8)
    for layer in [*quantized_layers(model).values()][1:]:
        layer.pack_()
    one = CONFIG.dim * 3 * CONFIG.dim  # MACs of the qkv of the first block, for one token
    assert integer_macs(lambda: model(images)) == 0
    assert use_integer_kernels(model, CPU) == ["encoder.blocks.0.attn.qkv (96 to 32)"]
    expected = 3 * CONFIG.tokens * (CONFIG.depth * linear_macs(CONFIG) - one)
    assert integer_macs(lambda: model(images)) == expected


def test_cuda_leaves_out_sizes_that_are_no_multiples_of_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.quantization.products.multiplies_exactly", lambda _: True)
    found = [supports_layer(packed(nn.Linear(*sizes), "token", False, 0, 0), torch.device("cuda")) for sizes in
             ((32, 48), (32, 44), (36, 48))]  # fmt: skip
    assert found == [True, False, False]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="about instructions of x86")
def test_a_processor_that_overflows_is_found_out() -> None:
    code = "import torch; from compress.quantization.products import multiplies_exactly as exact; "
    code += "print(exact(torch.device('cpu')))"
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": root}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"


def packed_up(model: VisionTransformer, which: variant.Variant) -> Checkpoint:
    methods = tuple(which.describe())
    return Checkpoint(model.config, methods, model.state_dict(), "digits", tuple("0123456789"), (0.3,), (0.4,))


def test_torch_multiplies_integers_and_reads_their_share(tmp_path: Path) -> None:
    torch.manual_seed(0)
    runtime, methods, images = runtimes.get("torch"), (Int8(),), torch.randn(5, 1, 8, 8)
    model = finetuning.calibrate(variant.prepare(VisionTransformer(CONFIG), methods), methods, [images], CPU)
    which, path = variant.Variant(methods), tmp_path / "int8.pth"
    content = packed_up(model, which)
    runtime.build(BuildInputs(model, which, content, images), path)
    inspection = runtime.inspect(path)
    assert (inspection.executed, inspection.notes) == ("int8", ())
    linears = CONFIG.depth * CONFIG.tokens * linear_macs(CONFIG)
    assert inspection.integer_share == pytest.approx(linears / dense_macs(CONFIG))
    session = runtime.load(path, "cpu", 1)
    want = loading.restore(path)[0](images).detach().numpy()
    assert abs(session.get(session.run(session.put(images.numpy()))) - want).max() < 0.02 * abs(want).max()


@torch.no_grad()
def test_the_compiler_leaves_the_products_integers() -> None:
    compiled = runtimes.get("torch.compile")
    if not isinstance(compiled, Compiled) or "cpu" not in compiled.devices():
        pytest.skip("no compiler here")
    torch.manual_seed(0)
    layer, x = IntegerLinear(packed(nn.Linear(32, 24), "static", False, -1.0, 2.0)), torch.randn(2, 19, 32)
    want = layer(x)
    compile_model(layer)
    torch.testing.assert_close(layer(x), want)
    assert integer_macs(lambda: layer(x)) == 2 * 19 * 32 * 24


def test_where_integers_overflow_the_runtime_says_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.quantization.products.multiplies_exactly", lambda _: False)
    monkeypatch.setattr("compress.runtimes.torch_session.multiplies_exactly", lambda _: False)
    model, path = model_of("static"), tmp_path / "int8.pth"
    which = variant.Variant((Int8(),))
    content = packed_up(model, which)
    runtime = runtimes.get("torch")
    runtime.build(BuildInputs(model, which, content, torch.zeros(1, 1, 8, 8)), path)
    inspection = runtime.inspect(path)
    assert (inspection.executed, inspection.integer_share) == ("int8-simulated", 0.0)
    assert "overflow" in inspection.notes[0]
    assert "and 4 more" in inspection.notes[0]
