"""Token merging: one token counts as all it stands for, equal tokens are merged for nothing, and counts are exact."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baselines.errors import InputError
from baselines.macs import attention_macs, dense_macs, stem_macs
from baselines.vit import VisionTransformer, ViTConfig
from compress import variant
from compress.checkpoints.checkpoint import Checkpoint
from compress.exporters.onnx import export_onnx
from compress.measure import cost
from compress.measure.rollout import trace
from compress.methods import Bf16, ToMe
from compress.methods.tome import Similarity, ToMeEncoder, merge, merged_macs, pair, possible, selection_macs

SHAPES: dict[str, dict[str, Any]] = {
    "cls": {},
    "mean": {"pool": "mean"},
    "seq": {"pool": "seq", "tokenizer": "cct", "norm": "batch"},
    "distill": {"distill_token": True, "registers": 1},
    "modern mean": {"pool": "mean", "registers": 3, "layer_scale": 0.5, "qk_norm": True},
}
DEIT_S = ViTConfig(image_size=(224, 224), patch_size=16, dim=384, depth=12, heads=6, mlp_dim=1536, classes=1000)


def baseline(shape: str = "cls", **changes: Any) -> VisionTransformer:
    """20 patches, 4 blocks; weights large enough for attention to be uneven."""
    torch.manual_seed(0)
    geometry: dict[str, Any] = {"image_size": (20, 16), "channels": 2, "patch_size": 4, "dim": 32, "depth": 4}
    geometry |= {"heads": 2, "mlp_dim": 48, "classes": 5}
    model = VisionTransformer(ViTConfig(**(geometry | SHAPES[shape] | changes))).eval()
    for block in model.encoder.blocks:
        block.get_submodule("attn.qkv").get_parameter("weight").data *= 2
    return model


def merging(model: VisionTransformer, **given: Any) -> VisionTransformer:
    return variant.prepare(model, [ToMe(**given)]).eval()


def images(n: int = 5) -> Tensor:
    return torch.randn(n, 2, 20, 16, generator=torch.Generator().manual_seed(1))


def answer(model: VisionTransformer, x_BND: Tensor) -> Tensor:
    """Tokens -> logits of the first head."""
    encoded = model.encoder(x_BND)
    return model.head(model.pool(model.norm(encoded.tokens), encoded.sizes))


def test_equal_patches_become_one_and_a_mean_counts_what_each_stands_for() -> None:
    # One token of the prefix, then patches A0 B0 A1 B1 A2. A0 and A2 are like B1, A1 like nobody.
    keys = torch.tensor([[[1.0, 0], [0, 1], [-1, -1], [1, 0], [2, 0.1]]])
    x = torch.tensor([[[9.0], [5], [6], [7], [5], [8]]])
    cosine = Similarity()(keys)
    torch.testing.assert_close(cosine[0, 0], torch.tensor([0.0, 1.0]))

    once = pair(cosine, 1, prefix=1)
    tokens, sizes = merge(x, torch.ones(1, 6), once)
    assert once.stay_BN.tolist() == [[0, 5, 3, 2, 4]]
    assert tokens.flatten().tolist() == [9, 8, 7, 6, 5]  # 5 and 5 are 5
    assert sizes.tolist() == [[1, 1, 1, 1, 2]]

    twice = pair(cosine, 2, prefix=1)
    tokens, sizes = merge(x, torch.tensor([[1.0, 2, 1, 1, 3, 5]]), twice)
    assert tokens.flatten().tolist() == pytest.approx([9, 7, 6, (2 * 5 + 3 * 5 + 5 * 8) / 10])
    assert sizes.tolist() == [[1, 1, 1, 10]]


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_merging_equal_patches_changes_no_answer(shape: str) -> None:
    dense = baseline(shape).double()
    prefix = dense.config.prefix_tokens
    x_BND = dense.embed(images().double()).clone()
    x_BND[:, prefix::2] = x_BND[:, prefix + 1 :: 2]
    expected = answer(dense, x_BND)
    for r in (4, 10):
        torch.testing.assert_close(answer(merging(dense, r=(r, 0, 0, 0)), x_BND), expected, atol=1e-5, rtol=0)
    unweighted = answer(merging(dense, r=(4, 0, 0, 0), proportional=False), x_BND)
    assert (unweighted - expected).abs().max() > 1e-3


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 3), st.integers(1, 7), st.integers(0, 99))
def test_what_is_merged_is_conserved(batch: int, side: int, registers: int, r: int, seed: int) -> None:
    torch.manual_seed(seed)
    config = ViTConfig(
        image_size=(side, 3), channels=1, patch_size=1, dim=8, depth=4, heads=2, mlp_dim=8, registers=registers
    )
    model = merging(VisionTransformer(config), r=r)
    merged = possible(config, [r] * 4)
    with torch.inference_mode():
        sizes_BN = model.compute_output(torch.randn(batch, 1, side, 3)).encoder.sizes
    sizes_BN = torch.ones(batch, config.tokens) if sizes_BN is None else sizes_BN
    assert sizes_BN.shape == (batch, config.tokens - sum(merged))
    assert sizes_BN.sum(1).tolist() == [config.tokens] * batch
    assert (sizes_BN[:, : config.prefix_tokens] == 1).all()
    assert (sizes_BN >= 1).all()

    x_BND, size_BN = torch.randn(batch, config.tokens, 8).double(), torch.randint(1, 9, (batch, config.tokens)).double()
    if merged[0]:
        pairs = pair(torch.randn(batch, (3 * side + 1) // 2, 3 * side // 2), merged[0], config.prefix_tokens)
        y_BND, after_BN = merge(x_BND, size_BN, pairs)
        torch.testing.assert_close((after_BN[..., None] * y_BND).sum(1), (size_BN[..., None] * x_BND).sum(1))


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_an_image_gets_the_same_answer_in_any_batch(shape: str) -> None:
    model = merging(baseline(shape).double(), r=3)
    together = images(7).double()
    alone = torch.cat([model(image[None]) for image in together])
    torch.testing.assert_close(model(together), alone, atol=1e-5, rtol=0)


def test_macs_of_a_known_geometry() -> None:
    merged = ToMe(r=13).merged(DEIT_S)
    assert merged == [13] * 12
    tokens = [197 - 13 * block for block in range(12)]
    blocks = sum(n * 4 * 384**2 + attention_macs(DEIT_S, n) + (n - 13) * 2 * 384 * 1536 for n in tokens)
    compared = sum(-(-(n - 1) // 2) * ((n - 1) // 2) * 64 for n in tokens)
    assert selection_macs(DEIT_S, merged) == compared
    assert merged_macs(DEIT_S, merged) == stem_macs(DEIT_S) + blocks + compared
    assert (stem_macs(DEIT_S) + blocks) / 1e9 == pytest.approx(2.70, abs=0.005)
    assert dense_macs(DEIT_S) / (stem_macs(DEIT_S) + blocks) == pytest.approx(1.70, abs=0.005)


@pytest.mark.parametrize("shape", SHAPES)
def test_four_counters_agree(shape: str) -> None:
    model = merging(baseline(shape), r=(3, 0, 5, 2))
    spent = cost.measure_batches(model, [images()])
    counted = cost.count_with_libraries(spent)
    assert spent.fixed
    assert set(counted.values()) == {float(merged_macs(model.config, [3, 0, 5, 2]))}, counted


@pytest.mark.parametrize("shape", SHAPES)
def test_the_smallest_r_that_meets_the_target(shape: str) -> None:
    config = baseline(shape).config
    for target in (1.0, 0.9, 0.75):
        merged = ToMe(target_macs=target).merged(config)
        assert merged_macs(config, merged) <= target * dense_macs(config)
        less = possible(config, [max(merged[0] - 1, 0)] * 4)
        assert target == 1 or merged_macs(config, less) > target * dense_macs(config)
    assert merged[0] > 0
    assert ToMe(target_macs=1.0).merged(config) == [0] * 4


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"target_macs": 0.05}, r"out of reach, since \d\d\.\d% of the MACs remain"),
        ({"r": (1, 2)}, "r has 2 numbers, but the model has 4 blocks"),
        ({"r": -1}, "r -1 is no number of patches"),
        ({"r": ()}, "no number of patches"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        variant.prepare(baseline(), variant.parse("tome", {"tome": settings}).methods)


@torch.inference_mode()
def test_nothing_is_compared_or_masked_before_the_first_merge() -> None:
    model, compared, masks = merging(baseline(), r=(0, 4, 0, 0)), [], []
    encoder = model.encoder
    assert isinstance(encoder, ToMeEncoder)
    encoder.similarity.register_forward_hook(lambda *_: compared.append(1))
    for block in encoder.blocks:
        block.get_submodule("attn").register_forward_pre_hook(lambda _, args: masks.append(args[1]))
    ran = model.compute_output(images()).encoder
    assert len(compared) == 1
    assert [mask is None for mask in masks] == [True, True, False, False]
    assert ran.sizes is not None
    assert ran.counts is not None
    assert ran.mlp_counts is not None
    assert torch.equal(masks[2], ran.sizes.log()[:, None, None])
    assert ran.counts[0].tolist() == [21, 21, 17, 17]
    assert ran.mlp_counts[0].tolist() == [21, 17, 17, 17]


@pytest.mark.parametrize("shape", SHAPES)
def test_pictures_see_who_went_on(shape: str) -> None:
    model = merging(baseline(shape), r=4)
    prefix, seen = model.config.prefix_tokens, trace(model, images(1))
    left = [20 - sum(possible(model.config, [4] * 4)[:block]) for block in range(4)]
    assert (seen.blocks_N[:prefix] == 4).all()
    assert [int((seen.blocks_N[prefix:] > block).sum()) for block in range(4)] == left
    assert seen.rollout_N.sum().item() == pytest.approx(1)


def test_bfloat16_merges_too() -> None:
    model = variant.prepare(baseline(), [ToMe(r=4), Bf16()]).eval()
    output = model.compute_output(images())
    assert output.encoder.sizes is not None
    assert output.encoder.sizes.sum(1).tolist() == [21.0] * 5
    assert (output.logits - merging(baseline(), r=4)(images())).abs().max() < 0.2
    model = merging(baseline(), r=4).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images()).float().square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_an_exported_graph_merges_the_same_at_any_batch_size(tmp_path: Path) -> None:
    model = merging(baseline("modern mean", depth=2), r=4)
    content = Checkpoint(model.config, (), model.state_dict(), "digits", tuple("abcde"), (0.5,) * 2, (0.5,) * 2)
    parity = export_onnx(model, tmp_path / "tome.onnx", images(10), content)  # batches of 1, 2 and 7
    assert parity.n_images == 10
    assert parity.max_difference < 1e-5
    assert parity.agreement == 1
