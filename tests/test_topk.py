"""Top-k: which patches stay, what is put in the place of the others, and what it costs."""

from typing import Any

import pytest
import torch

from baselines.errors import InputError
from baselines.reduction import (
    Attentiveness,
    Distinctness,
    choose_blocks,
    count_patches_left,
    gather_rows,
    select_patches,
)
from baselines.vit import VisionTransformer, ViTConfig
from compress import variant
from compress.measure.cost import count_with_libraries, measure_batches
from compress.methods import TopK
from compress.methods.topk import importance

KINDS: dict[str, dict[str, Any]] = {
    "cls": {},
    "mean": {"pool": "mean"},
    "seq": {"pool": "seq", "registers": 2},
    "modern": {"distill_token": True, "registers": 1, "qk_norm": True, "layer_scale": 0.3},
}


def model_of(kind: str, **settings: Any) -> VisionTransformer:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=(16, 20), channels=1, patch_size=4, dim=24, depth=4, heads=2, mlp_dim=32, **KINDS[kind]
    )
    return variant.prepare(VisionTransformer(config).eval(), [TopK(**settings)])


def images(n: int = 5) -> torch.Tensor:
    return torch.randn(n, 1, 16, 20, generator=torch.Generator().manual_seed(1))


def test_where_and_how_many() -> None:
    assert choose_blocks(12) == (3, 6, 9)
    assert [choose_blocks(depth) for depth in (1, 2, 3, 4, 6)] == [(0,), (1,), (1, 2), (1, 2, 3), (1, 3, 4)]
    deit = ViTConfig(image_size=224, patch_size=16, dim=384, depth=12, heads=6, mlp_dim=1536)
    assert TopK(keep=0.7).counts(deit) == {3: 138, 6: 97, 9: 68}  # of 196, rounded up
    assert TopK(keep=0.7, multiple=16).counts(deit) == {3: 143, 6: 95, 9: 63}  # with the class token 144, 96, 64
    assert TopK(keep=(0.5, 0.5), at=(2, 4)).counts(deit) == {2: 98}  # nothing leaves the second time
    assert TopK(keep=1.0).counts(deit) == {}
    assert count_patches_left(deit, [1e-9]) == [1]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"at": (4,)}, "has 4 blocks"),
        ({"keep": (0.9, 0.5), "at": (1, 2, 3)}, "2 shares for 3 places"),
        ({"keep": (0.5, 0.9), "at": (1, 2)}, "or rises"),
        ({"keep": 0.0}, "is no share"),
        ({"at": (2, 1)}, "rising block numbers"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises((InputError, ValueError), match=says):
        model_of("cls", **settings)


def test_a_score_is_what_the_head_would_look_at() -> None:
    q, k = torch.randn(2, 3, 2, 5, 4)  # B, H, N, K
    x_BND = torch.randn(3, 5, 8)
    torch.testing.assert_close(Attentiveness()(x_BND, q, k), (q @ k.mT / 2).softmax(-1).mean(1)[:, 0])
    apart = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]])
    torch.testing.assert_close(Distinctness()(apart)[0, :2], 1 - torch.tensor([3.0, 1.0]) / 10**0.5)
    model = model_of("seq")
    pool, tokens = model.sequence_pool, torch.randn(2, 22, 24)
    assert pool is not None
    torch.testing.assert_close(importance(model)(tokens, q, k), pool.weights(model.norm(tokens)))
    own = {name.split(".")[0] for name in model.encoder.state_dict()}
    assert own == {"blocks"}  # what the score borrows is saved once


def test_the_best_stay_behind_the_prefix() -> None:
    score_BP = torch.tensor([[0.1, 0.9, 0.5], [3.0, 1.0, 2.0]])
    index_BR = select_patches(score_BP, 2, prefix=2)
    assert [sorted(row) for row in index_BR.tolist()] == [[0, 1, 3, 4], [0, 1, 2, 4]]
    assert index_BR[:, :2].tolist() == [[0, 1]] * 2
    x_BND = torch.randn(2, 5, 3)
    torch.testing.assert_close(gather_rows(x_BND, index_BR), torch.stack([x_BND[i][index_BR[i]] for i in range(2)]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fuse", [False, True])
@torch.inference_mode()
def test_an_image_gets_the_same_answer_in_any_batch_and_all_counters_agree(kind: str, fuse: bool) -> None:
    model = model_of(kind, keep=0.6, fuse=fuse)
    alone = torch.cat([model(image[None]) for image in images()])
    torch.testing.assert_close(model(images()), alone, atol=1e-5, rtol=1e-5)
    ran = model.compute_output(images()).encoder
    assert ran.counts is not None
    assert ran.mlp_counts is not None
    prefix = model.config.prefix_tokens
    left = [20, *(count_patches_left(model.config, [0.6, 0.36, 0.216]))]
    extra = [0, 1, 1, 1] if fuse else [0] * 4
    assert ran.counts[0].tolist() == [
        n + prefix + more for n, more in zip([20, *left[:3]], [0, *extra[:3]], strict=True)
    ]
    assert ran.mlp_counts[0].tolist() == [n + prefix + more for n, more in zip(left, extra, strict=True)]
    if fuse:
        assert ran.sizes is not None
        torch.testing.assert_close(ran.sizes.sum(1), torch.full((5,), 20.0 + prefix))
    counted = count_with_libraries(measure_batches(model, [images()]))
    assert len(set(counted.values())) == 1, counted


@torch.inference_mode()
def test_what_is_fused_is_a_weighted_mean_of_what_leaves() -> None:
    model = model_of("mean", keep=0.5, at=(3,), fuse=True)
    seen = {}
    model.encoder.blocks[3].mlp.register_forward_pre_hook(lambda _, x: seen.update(after=x[0]))
    block = model.encoder.blocks[3]
    block.attn.register_forward_hook(lambda _, x, out: seen.update(before=x[0], mixed=out[0]))
    x_BND = model.embed(images())
    for each in model.encoder.blocks[:3]:
        x_BND = each(x_BND)
    encoded = model.encoder(model.embed(images()))
    tokens_BND = encoded.tokens
    assert tokens_BND.shape == (5, 11, 24)
    assert encoded.sizes.tolist() == [[1.0] * 10 + [10.0]] * 5
    all_BND = x_BND + seen["mixed"]
    q, k = block.attn(block.norm1(x_BND))[1:]
    score_BP = importance(model)(all_BND, q, k)
    lowest = score_BP.argsort(1)[:, :10]
    weight = score_BP.gather(1, lowest)
    fused = (gather_rows(all_BND, lowest) * (weight / weight.sum(1, keepdim=True))[..., None]).sum(1)
    torch.testing.assert_close(seen["after"][:, -1], block.norm2(fused), atol=1e-5, rtol=1e-5)


def test_equal_patches_may_leave_without_a_trace() -> None:
    """With one patch value everywhere, a fused mean-pooled model answers as the dense one does."""
    model = model_of("mean", keep=0.3, fuse=True)
    dense = VisionTransformer(model.config).eval()
    dense.load_state_dict(model.state_dict())
    for each in (model, dense):
        each.pos_embed.data.zero_()
    flat = torch.ones(2, 1, 16, 20)
    torch.testing.assert_close(model(flat), dense(flat), atol=1e-5, rtol=1e-5)
