"""DynamicViT: the masked path that trains is the gathered path that ships, and what leaves is gone."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor

from baselines.losses import soft
from baselines.macs import dense_macs
from baselines.step import Step
from baselines.vit import VisionTransformer, ViTConfig
from compress import variant
from compress.checkpoints.checkpoint import Checkpoint
from compress.exporters.onnx import export_onnx
from compress.measure.cost import Cost, count_with_libraries, disagreements
from compress.measure.rollout import trace
from compress.methods.dynamicvit import DynamicEncoder, DynamicViT, Predictor, ratio_loss, token_distance

DEIT = ViTConfig(image_size=(224, 224), patch_size=16, dim=384, depth=12, heads=6, mlp_dim=1536)
SHAPES: dict[str, dict[str, Any]] = {
    "cls": {},
    "mean": {"pool": "mean"},
    "seq": {"pool": "seq", "norm": "batch"},
    "distill": {"distill_token": True},
    "modern": {"registers": 2, "layer_scale": 0.5, "qk_norm": True},
    "modern mean": {"pool": "mean", "registers": 2, "layer_scale": 0.5, "qk_norm": True},
}


def dynamic(shape: str = "cls", method: DynamicViT | None = None) -> VisionTransformer:
    torch.manual_seed(0)
    geometry: dict[str, Any] = {"image_size": (16, 12), "channels": 1, "patch_size": 2, "dim": 26, "depth": 4}
    geometry |= {"heads": 2, "mlp_dim": 40, "classes": 5} | SHAPES[shape]
    config = ViTConfig.model_validate(geometry)
    return variant.prepare(VisionTransformer(config), [method or DynamicViT()]).eval()


def encoder_of(model: VisionTransformer) -> DynamicEncoder:
    assert isinstance(model.encoder, DynamicEncoder)
    return model.encoder


def images(n: int = 6) -> Tensor:
    return torch.randn(n, 1, 16, 12, generator=torch.Generator().manual_seed(1))


def decisions_of(model: VisionTransformer) -> list[Tensor]:
    """Who stays at each stage when `images()` run through the gathered path, (B, P) each."""
    encoder, kept = encoder_of(model), []

    def note(place_BR: Tensor) -> None:
        kept.append(torch.zeros(place_BR.shape[0], model.config.tokens).scatter(1, place_BR, 1.0)[:, encoder.prefix :])

    encoder.watch = note
    model(images())
    encoder.watch = None
    return kept


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_the_masked_path_that_trains_equals_the_gathered_path_that_ships(shape: str) -> None:
    model = dynamic(shape)
    encoder, kept, gathered = encoder_of(model), decisions_of(model), model(images())
    assert [each.sum(1).tolist() for each in kept] == [[34.0] * 6, [24.0] * 6, [17.0] * 6]  # of 48, every image alike
    assert not torch.equal(kept[0][0], kept[0][1])  # but not the same patches

    scores: list[Tensor] = []

    def decide(log_BP2: Tensor) -> Tensor:
        scores.append(log_BP2[..., 0])
        return kept[len(scores) - 1]

    encoder.forward = lambda x_BND: encoder.masked(x_BND, decide)
    masked = model.compute_output(images())
    torch.testing.assert_close(masked.logits, gathered, rtol=0, atol=1e-5)
    assert masked.encoder.decisions is not None
    assert torch.equal(masked.encoder.decisions, torch.stack(kept, 1))
    assert masked.tokens.shape[1] == model.config.tokens
    for score_BP, before, now in zip(scores, [torch.ones(6, 48), *kept], kept, strict=False):
        lowest = score_BP.masked_fill(now == 0, torch.inf).amin(1)
        highest = score_BP.masked_fill(before - now == 0, -torch.inf).amax(1)
        assert (lowest >= highest - 1e-6).all()  # it would have left the same patches


@pytest.mark.parametrize("shape", ["cls", "mean", "modern"])
@torch.inference_mode()
def test_a_patch_that_left_has_no_influence(shape: str) -> None:
    model = dynamic(shape, DynamicViT(at=(0, 2), keep=0.7))
    encoder, kept_BP = encoder_of(model), torch.ones(6, 48)
    gone = [encoder.prefix, encoder.prefix + 7]
    kept_BP[:, [0, 7]] = 0
    scores: list[Tensor] = []

    def decide(log_BP2: Tensor) -> Tensor:
        scores.append(log_BP2)
        return kept_BP

    x_BND = model.embed(images())
    other_BND = x_BND.clone()
    other_BND[:, gone] = 3 * torch.randn(6, 2, 26)
    outputs = [encoder.masked(each, decide).tokens for each in (x_BND, other_BND)]
    stays = [place for place in range(model.config.tokens) if place not in gone]
    torch.testing.assert_close(outputs[0][:, stays], outputs[1][:, stays], rtol=0, atol=1e-5)
    assert (outputs[0][:, gone] - outputs[1][:, gone]).abs().min() > 1e-4
    first, second, other_first, other_second = (log_BP2[:, kept_BP[0].bool()] for log_BP2 in scores)
    torch.testing.assert_close(second, other_second, rtol=0, atol=1e-5)
    assert not torch.allclose(first, other_first, rtol=0, atol=1e-4)  # all counted before


@pytest.mark.parametrize("shape", SHAPES)
def test_the_labels_alone_reach_the_predictors_of_all_stages(shape: str) -> None:
    model = dynamic(shape).train()
    torch.nn.functional.cross_entropy(model(images()), torch.arange(6) % 5).backward()
    assert len(encoder_of(model).predictors) == 3
    for predictor in encoder_of(model).predictors:
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in predictor.parameters())


def test_a_draw_is_hard_follows_the_probabilities_and_is_never_taken_back() -> None:
    model = dynamic().train()
    encoder = encoder_of(model)
    drawn_BP = encoder.draw(torch.tensor([0.8, 0.2]).log().expand(100, 200, 2))
    torch.testing.assert_close(drawn_BP, drawn_BP.round())
    assert drawn_BP.mean().item() == pytest.approx(0.8, abs=0.015)
    kept_BSP = model.compute_output(images()).encoder.decisions
    assert kept_BSP is not None
    assert kept_BSP.diff(dim=1).max() <= 1e-6


def test_training_runs_under_bfloat16_and_when_every_patch_leaves() -> None:
    model = dynamic("mean").train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model.compute_output(images())
    assert output.logits.isfinite().all()
    assert output.encoder.decisions is not None
    assert output.encoder.decisions.dtype is torch.float32
    encoder_of(model).draw = lambda log_BP2: (log_BP2 * 0)[..., 0]
    logits = model(images())
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


class TestLosses:
    def step(self, model: VisionTransformer, **taught: Tensor) -> Step:
        """One with a teacher that has the answers of the model, and tokens that are greater by 2, if not told."""
        output = model.compute_output(images())
        own = {"logits": output.logits.detach(), "tokens": output.tokens.detach() + 2}
        teacher = replace(output, **(own | taught))
        return Step(model, images(), torch.zeros(6).long(), output.logits, output, teacher_output=teacher)

    def test_by_hand(self) -> None:
        all_kept = torch.ones(6, 3, 48)
        kept = [34 / 48, 24 / 48, 17 / 48]  # keep 0.7, 0.49 and 0.343 of 48 patches, rounded up
        wanted = sum((1 - share) ** 2 for share in kept) / 3
        assert ratio_loss(all_kept, kept).item() == pytest.approx(wanted)
        model = dynamic().train()
        encoder_of(model).draw = lambda log_BP2: torch.ones_like(log_BP2[..., 0])
        terms = DynamicViT(ratio_weight=5, token_weight=0.25).loss_terms(self.step(model))
        assert {name: value.item() for name, value in terms.items()} == pytest.approx(
            {"ratio": 5 * wanted, "tokens": 0.25 * 4, "answers": 0}, abs=1e-5
        )
        own, taught = torch.zeros(1, 2), torch.tensor([[0.9, 0.1]]).log()
        assert soft(own, taught, 1.0).item() == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2))

    def test_only_patches_kept_are_compared_with_the_teacher(self) -> None:
        own, aim, kept = torch.zeros(2, 3, 4), torch.ones(2, 3, 4), torch.tensor([[1.0, 1, 0], [0, 1, 0]])
        aim[0, 1], aim[0, 2], aim[1, 0] = 4, 100, 100
        assert token_distance(own, aim, kept).item() == pytest.approx((1 + 16 + 1) / 3)
        assert token_distance(own, aim, 0 * kept).item() == 0
        model = dynamic().train()
        first_leaves = iter([0.0, 0.0, 1.0])  # at the last stage
        encoder_of(model).draw = lambda log_BP2: 1 - next(first_leaves) * torch.eye(48)[0].expand_as(log_BP2[..., 0])
        step = self.step(model)
        assert step.teacher_output is not None
        step.teacher_output.tokens[:, 1] += 100
        assert DynamicViT(token_weight=1).loss_terms(step)["tokens"].item() == pytest.approx(4, abs=1e-4)

    def test_a_teacher_of_another_width_teaches_answers_only(self) -> None:
        step = self.step(dynamic().train(), tokens=torch.zeros(6, 49, 64))
        assert DynamicViT().loss_terms(step).keys() == {"ratio", "answers"}

    def test_a_distillation_token_answers_the_teacher(self) -> None:
        step = self.step(dynamic("distill").train())
        assert DynamicViT().loss_terms(step)["answers"] > 1e-4
        assert step.output.distill_logits is not None
        assert step.teacher_output is not None
        taught = replace(step.teacher_output, logits=step.output.distill_logits.detach())
        agreed = replace(step, teacher_output=taught)
        assert DynamicViT().loss_terms(agreed)["answers"].item() == pytest.approx(0, abs=1e-6)

    def test_where_no_patch_leaves_the_teacher_is_all_there_is(self) -> None:
        method = DynamicViT(keep=1.0)
        model = dynamic(method=method).train()
        assert not isinstance(model.encoder, DynamicEncoder)
        assert method.loss_terms(self.step(model)).keys() == {"answers"}


@pytest.mark.parametrize(
    ("method", "counts"),
    [
        (DynamicViT(), {3: 138, 6: 97, 9: 68}),  # of 196; ceil of 137.2, 96.04, 67.2
        (DynamicViT(keep=(0.9, 0.5, 0.5)), {3: 177, 6: 98}),  # nobody leaves at the third
        (DynamicViT(at=(2, 5), keep=0.5), {2: 98, 5: 49}),
        (DynamicViT(multiple=8), {3: 135, 6: 95, 9: 71}),  # and the class token: 136, 96, 72
    ],
)
def test_patches_that_stay(method: DynamicViT, counts: dict[int, int]) -> None:
    assert method.counts(DEIT) == counts


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", [DynamicViT(), DynamicViT(at=(0, 3), keep=(0.6, 0.3), multiple=4)])
@torch.inference_mode()
def test_all_counters_agree_and_every_image_runs_as_many_tokens(shape: str, method: DynamicViT) -> None:
    model = dynamic(shape, method)
    output = model.compute_output(images())
    ran = output.encoder.counts
    assert ran is not None
    spent = Cost(0, dense_macs(model.config), model, ran, None, output.tokens.shape[1])
    assert spent.fixed
    counted = count_with_libraries(spent)
    assert (len(counted), disagreements(counted)) == (4, [])
    per_patch = 26 * 26 + 26 * 13 + 13 * 6 + 6 * 2  # at half and quarter of the width
    counts = list(method.counts(model.config).values())
    assert model.encoder.own_macs == per_patch * sum([48, *counts[:-1]])
    assert int(ran[0, -1]) == counts[-1] + model.config.prefix_tokens


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_a_predictor_of_any_width(dim: int) -> None:
    log_BP2 = Predictor(dim)(torch.randn(3, 7, dim), torch.ones(3, 7))
    torch.testing.assert_close(log_BP2.exp().sum(-1), torch.ones(3, 7))


def test_a_watcher_hears_who_goes_on_before_the_next_block() -> None:
    model = dynamic("modern")
    seen = trace(model, images(1))
    torch.testing.assert_close(seen.logits, model(images(1))[0])
    assert seen.blocks_N[:3].tolist() == [4, 4, 4]
    assert [int((seen.blocks_N >= blocks).sum()) - 3 for blocks in (1, 2, 3, 4)] == [48, 34, 24, 17]
    assert seen.rollout_N.sum().item() == pytest.approx(1)


def test_an_exported_graph_takes_any_batch(tmp_path: Path) -> None:
    model, path = dynamic("distill"), tmp_path / "dynamicvit.onnx"
    content = Checkpoint(model.config, (), model.state_dict(), "made", tuple("abcde"), (0.3,), (0.4,))
    parity = export_onnx(model, path, images(24), content)  # in batches of 1, 2, 7
    assert parity.agreement == 1
    session = onnxruntime.InferenceSession(path)
    for n in (1, 3, 16):
        with torch.inference_mode():
            expected = model(images(n))
        got = torch.from_numpy(session.run(None, {"images": images(n).numpy()})[0])
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
