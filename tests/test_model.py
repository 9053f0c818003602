"""The Vision Transformer, its counting, and ragged batches."""

import warnings
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from baselines.macs import dense_macs, params, ragged_macs
from baselines.ragged import Ragged
from baselines.vit import Attention, VisionTransformer, ViTConfig
from compress.measure.cost import Cost, count_with_libraries

GEOMETRIES = [
    ViTConfig(dim=48, depth=2, heads=3, mlp_dim=96),
    ViTConfig(dim=48, depth=3, heads=4, mlp_dim=80, pool="mean", tokenizer="conv", classes=7),
    ViTConfig(image_size=(16, 8), channels=1, patch_size=1, dim=32, depth=1, heads=2, mlp_dim=40, tokenizer="conv"),
    ViTConfig(dim=48, depth=2, heads=4, mlp_dim=80, pool="seq", tokenizer="cct", norm="batch"),
    ViTConfig(image_size=16, patch_size=1, dim=32, depth=1, heads=2, mlp_dim=40, tokenizer="cct", distill_token=True),
    ViTConfig(image_size=(12, 20), channels=1, patch_size=4, dim=36, depth=2, heads=2, mlp_dim=50, pool="mean"),
    ViTConfig(
        image_size=24, patch_size=8, dim=48, depth=2, heads=3, mlp_dim=50, registers=4, layer_scale=0.1, qk_norm=True
    ),
    ViTConfig(image_size=40, patch_size=8, dim=48, depth=2, heads=3, mlp_dim=50, pool="seq", registers=3),
    ViTConfig(dim=40, depth=2, heads=3, head_dim=24, mlp_dim=50, tokenizer="normed", representation=20, qk_norm=True),
    ViTConfig(dim=48, depth=2, heads=3, mlp_dim=50, pool="mean", norm_at="pooled", pre_norm=True, registers=1),
]


@pytest.mark.parametrize("config", GEOMETRIES, ids=lambda c: f"{c.tokenizer}-{c.pool}-{c.tokens}")
def test_four_counters_agree_and_weights_are_as_many_as_the_formula_says(config: ViTConfig) -> None:
    model = VisionTransformer(config).eval()
    counted = count_with_libraries(Cost(0, dense_macs(config), model, None))
    assert len(counted) == 4
    assert set(counted.values()) == {float(dense_macs(config))}
    assert sum(p.numel() for p in model.parameters()) == params(config)


def test_macs_of_a_small_model_by_hand() -> None:
    config = ViTConfig(image_size=8, patch_size=4, channels=3, dim=8, depth=2, heads=2, mlp_dim=16, classes=5)
    tokenizer, tokens = 4 * (4 * 4 * 3) * 8, 5
    block = tokens * (8 * 24 + 8 * 8 + 8 * 16 + 16 * 8) + 2 * tokens * tokens * 8
    assert dense_macs(config) == tokenizer + 2 * block + 8 * 5
    full = torch.full((1, 2), tokens)
    assert ragged_macs(config, full, full).item() == dense_macs(config)
    assert ragged_macs(config, full * 0, full * 0).item() == tokenizer + 8 * 5


def test_deit_tiny_is_the_published_1254_mmacs() -> None:
    deit = ViTConfig(image_size=224, patch_size=16, dim=192, depth=12, heads=3, mlp_dim=768, classes=1000)
    assert dense_macs(deit) / 1e6 == pytest.approx(1253.7, abs=0.05)
    assert params(deit) == 5_717_416


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"image_size": 30}, "patch_size"),
        ({"heads": 5}, "heads"),
        ({"patch_size": 3, "image_size": 30, "tokenizer": "conv"}, "power of two"),
        ({"dimm": 64}, "Extra inputs"),
    ],
)
def test_impossible_geometry_is_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ViTConfig.model_validate(wrong)


def test_explicit_attention_equals_the_fused_kernel() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(GEOMETRIES[0]).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        fused = model(images)
        for module in model.modules():
            if isinstance(module, Attention):
                module.fused = False
        torch.testing.assert_close(model(images), fused, atol=1e-5, rtol=1e-5)


def test_training_in_bf16_spells_attention_out_and_stays_near_float32() -> None:
    torch.manual_seed(0)
    attention = Attention(GEOMETRIES[0]).train()
    x_BND = torch.randn(4, 65, 48)
    grads = []
    for bf16 in (False, True):
        attention.zero_grad()
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
            patch.object(F, "scaled_dot_product_attention", wraps=F.scaled_dot_product_attention) as fused,
        ):
            attention(x_BND)[0].float().square().mean().backward()
        assert fused.called != bf16
        assert attention.qkv.weight.grad is not None
        grads.append(attention.qkv.weight.grad.clone())
    assert (grads[1] - grads[0]).norm() < 0.03 * grads[0].norm()


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=20).filter(any))
def test_packed_attention_equals_one_image_at_a_time(counts: list[int]) -> None:
    torch.manual_seed(len(counts))
    attention = Attention(GEOMETRIES[0]).eval()
    layout = Ragged.full(len(counts), 9, torch.device("cpu"))
    kept = torch.tensor([image * 9 + token for image, n in enumerate(counts) for token in range(n)])
    layout = layout.select(kept)
    x_TD = torch.randn(len(kept), 48)
    with torch.inference_mode():
        packed = attention(x_TD, layout=layout)[0]
        alone = torch.cat([attention(part[None])[0][0] for part in x_TD.split(counts) if len(part)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls nested tensors a prototype
            jagged = attention.proj(attention.jagged(attention.qkv(x_TD), layout)[0])  # as on a GPU
        layout.padded = True
        in_one_rectangle = attention(x_TD, layout=layout)[0]  # as in an exported graph
    for other in (packed, jagged, in_one_rectangle):
        torch.testing.assert_close(other, alone, atol=1e-5, rtol=1e-5)
