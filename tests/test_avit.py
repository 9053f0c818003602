"""Adaptive halting: what is trained is what ships, and the budget is met."""

import pytest
import torch

from baselines.macs import dense_macs, ragged_macs
from baselines.vit import VisionTransformer, ViTConfig
from compress import variant
from compress.methods.avit import AViT, HaltingEncoder, gaussian_prior, halting_macs, target_depth


def halting_model(pool: str = "cls", cls_halts: bool = False, *, shift: float = -2.0) -> VisionTransformer:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=(16, 8),
        channels=1,
        patch_size=2,
        dim=32,
        depth=4,
        heads=2,
        mlp_dim=64,
        pool="cls" if pool == "distill" else pool,  # type: ignore[arg-type]
        distill_token=pool == "distill",
    )
    method = AViT(cls_halts=cls_halts, gate_scale=6.0, gate_shift=shift)
    return variant.prepare(VisionTransformer(config), [method]).eval()


def encoder_of(model: VisionTransformer) -> HaltingEncoder:
    assert isinstance(model.encoder, HaltingEncoder)
    return model.encoder


@pytest.mark.parametrize("pool", ["cls", "mean", "seq", "distill"])
@pytest.mark.parametrize("cls_halts", [False, True])
@torch.inference_mode()
def test_the_masked_path_that_trains_equals_the_gathered_path_that_ships(pool: str, cls_halts: bool) -> None:
    model = halting_model(pool, cls_halts)
    encoder = encoder_of(model)
    x_BND = model.embed(torch.randn(37, 1, 16, 8))
    masked, gathered = encoder.masked(x_BND), encoder.gathered(x_BND)
    counts_BL, halting = gathered.counts, masked.halting
    assert counts_BL is not None
    assert halting is not None
    kept = masked.tokens[:, : gathered.tokens.shape[1]]
    torch.testing.assert_close(gathered.tokens, kept, atol=1e-5, rtol=1e-5)
    assert torch.equal(counts_BL.sum(1), halting.blocks_run.sum(1).long() + 4 * encoder.exempt)
    assert counts_BL.float().mean(0).diff().le(0).all()
    assert counts_BL[:, -1].float().mean() < 0.9 * x_BND.shape[1]  # halting did happen


@pytest.mark.parametrize("pool", ["cls", "mean"])
@torch.inference_mode()
def test_an_image_gets_the_same_answer_in_any_batch(pool: str) -> None:
    model = halting_model(pool).eval()
    images = torch.randn(19, 1, 16, 8)
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", ["cls", "mean", "seq", "distill"])
@pytest.mark.parametrize("cls_halts", [False, True])
@torch.inference_mode()
def test_never_and_at_once(pool: str, cls_halts: bool) -> None:
    model = halting_model(pool, cls_halts).eval()
    encoder, images = encoder_of(model), torch.randn(5, 1, 16, 8)
    for gate in encoder.gates.parameters():
        gate.zero_()
    encoder.gate_shift.fill_(1e4)
    output = model.compute_output(images)
    assert output.logits.isfinite().all()
    assert output.encoder.counts is not None
    assert (output.encoder.counts[:, 1:] == encoder.exempt).all()


def test_weights_over_the_blocks_are_a_distribution() -> None:
    model = halting_model(shift=-1.0).train()
    halting = encoder_of(model).masked(model.embed(torch.randn(7, 1, 16, 8))).halting
    assert halting is not None
    total = halting.weights.sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))
    assert (halting.weights >= 0).all()
    ran = (halting.weights > 0).float().cumsum(-1).argmax(-1) + 1
    assert torch.equal(ran, halting.blocks_run.long())


@pytest.mark.parametrize("mean", [1.2, 2.0, 3.5, 5.8])
def test_the_prior_is_a_distribution_with_the_mean_that_was_asked_for(mean: float) -> None:
    prior = gaussian_prior(6, mean, 1.0)
    assert prior.sum().item() == pytest.approx(1)
    assert (prior * torch.arange(1, 7)).sum().item() == pytest.approx(mean, abs=1e-3)


def test_target_depth_is_the_depth_that_costs_the_target() -> None:
    model = halting_model()
    config = model.config
    depth = target_depth(0.7, config, 1)
    gated, dense = config.tokens - 1, dense_macs(config)
    # linear share of a block only: the depth formula takes attention to shrink in proportion too, a little too little
    tokens = torch.full((1, 1), 1 + gated * depth / config.depth).expand(1, config.depth)
    full = torch.full((1, config.depth), config.tokens)
    linear = ragged_macs(config, tokens, full * 0) - ragged_macs(config, full * 0, full * 0)
    linear_full = ragged_macs(config, full, full * 0) - ragged_macs(config, full * 0, full * 0)
    attention = dense - ragged_macs(config, full, full * 0)
    stem = ragged_macs(config, full * 0, full * 0)
    assert ((linear + linear / linear_full * attention + stem) / dense).item() == pytest.approx(0.7, abs=1e-6)


@pytest.mark.parametrize("target", [0.5, 0.7, 0.9])
def test_calibration_meets_the_budget(target: float) -> None:
    model = halting_model()
    images = torch.randn(400, 1, 16, 8)
    AViT(target_macs=target).calibrate(model, [images])
    share = share_of(model, images)
    assert share == pytest.approx(target, rel=0.02)
    assert share <= target
    assert share_of(model, torch.randn(400, 1, 16, 8)) == pytest.approx(target, rel=0.03)  # images it has not seen


def test_training_steers_to_the_budget() -> None:
    """Weights stand still here: the shift alone brings a batch to its target, from far on both sides."""
    for start in (-8.0, 8.0):
        model = halting_model(shift=start).train()
        encoder, seen = encoder_of(model), []
        for _ in range(60):
            with torch.no_grad():
                seen.append(encoder.masked(model.embed(torch.randn(64, 1, 16, 8))).halting.blocks_run.mean() / 4)
        assert abs(seen[0] - encoder.target) > 0.2
        assert torch.stack(seen[-10:]).mean().item() == pytest.approx(encoder.target, abs=0.02)


@torch.inference_mode()
def share_of(model: VisionTransformer, images: torch.Tensor) -> float:
    """Of the dense model's MACs."""
    tokens = model.eval().compute_output(images).encoder.counts
    assert tokens is not None
    return halting_macs(model.config, tokens).mean().item() / dense_macs(model.config)
