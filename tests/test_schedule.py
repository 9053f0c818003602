"""How many tokens leave in which block, found on images: the best that there is, at no more than the budget."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run

from baselines.errors import InputError
from baselines.macs import dense_macs
from baselines.schedule import Search, clip_counts, find_schedule
from baselines.vit import VisionTransformer, ViTConfig
from compress import variant
from compress.cli import main
from compress.loading import restore
from compress.measure.cost import measure_batches
from compress.methods import ToMe, TopK
from reports import latest, read_rows

PATCHES, DEPTH = 40, 3
BATCHES = list(torch.randn(2, 16, 1, 16, 16, generator=torch.Generator().manual_seed(1)))


def model_of(**changes: Any) -> VisionTransformer:
    """16 patches, 4 blocks; weights large enough for attention to be uneven."""
    torch.manual_seed(0)
    geometry: dict[str, Any] = {"image_size": 16, "channels": 1, "patch_size": 4, "dim": 24, "depth": 4}
    model = VisionTransformer(ViTConfig(**(geometry | {"heads": 2, "mlp_dim": 48, "classes": 5} | changes))).eval()
    for block in model.encoder.blocks:
        block.get_submodule("attn.qkv").get_parameter("weight").data *= 2
    return model


def measure_divergence(before: VisionTransformer, after: VisionTransformer) -> float:
    """Mean over all images, written out."""
    with torch.inference_mode():
        p, q = (torch.cat([model(images) for images in BATCHES]).double().softmax(1) for model in (before, after))
    return (p * (p / q).log()).sum(1).mean().item()


@pytest.mark.parametrize("weights", list(itertools.permutations([1.0, 3.0, 9.0])))
def test_what_is_found_is_nearly_the_best_of_all(weights: tuple[float, ...]) -> None:
    search = Search(
        possible=lambda leaving: clip_counts(leaving, PATCHES - 1),
        macs=lambda leaving: sum(PATCHES - gone for gone in itertools.accumulate(leaving)),
        damage=lambda leaving: sum(weight * count**2 for weight, count in zip(weights, leaving, strict=True)),
    )
    every = [each for each in itertools.product(range(PATCHES), repeat=DEPTH) if sum(each) < PATCHES]
    for budget in (100, 80, 60, 40):
        found = find_schedule(search, DEPTH, PATCHES, budget)
        assert search.macs(found) <= budget
        best = min(search.damage(each) for each in every if search.macs(each) <= budget)
        assert best <= search.judge(found) <= 1.15 * best
    with pytest.raises(InputError, match=r"2\.5% of the MACs remain"):
        find_schedule(search, DEPTH, PATCHES, 2)


def test_patches_leave_where_nothing_is_lost() -> None:
    """After the last attention nobody looks at the patches any more, where a class token is what the head sees."""
    model = model_of()
    saved = 15 * 2 * 24 * 48 - 17 * 24  # their part of the last MLP, less the scores
    budget = 1 - saved / dense_macs(model.config)
    found = TopK(target_macs=budget).settle(model, BATCHES)
    assert (found.at, found.keep) == ((3,), (1 / 16,))
    assert measure_divergence(model, variant.prepare(model, [found])) < 1e-12


@pytest.mark.parametrize("pool", ["cls", "seq"])
@pytest.mark.parametrize(
    ("asked", "even"),
    [(TopK(learned=True, keep=0.6), TopK(keep=0.6)), (ToMe(learned=True, target_macs=0.6), ToMe(target_macs=0.6))],
)
def test_a_model_is_left_as_it_is_and_does_less_damage_at_the_same_cost(asked: Any, even: Any, pool: str) -> None:
    model = model_of(pool=pool)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = asked.settle(model, BATCHES)
    assert not found.searches
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    made, other = (variant.prepare(model, [each]) for each in (found, even))
    costs = [measure_batches(each, [BATCHES[0]]).per_image.mean().item() for each in (made, other)]
    assert costs[0] <= max(costs[1], 0.6 * dense_macs(model.config))
    assert measure_divergence(model, made) < measure_divergence(model, other)


def test_amounts_exclude_one_another() -> None:
    with pytest.raises(ValueError, match="remove keep and at, or target_macs"):
        TopK(keep=0.7, target_macs=0.6)


def test_prune_keeps_what_it_found(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "found.pth"
    args = ["prune", str(run.checkpoint()), "--target-macs", "0.7", "--threads", "1", "--seconds", "0.1", "--out"]
    assert main([*args, str(target)]) == 0
    before, after = latest(read_rows(tmp_path / "found-prune" / "rows.jsonl"))
    assert 0.6 < (after.macs_per_image or 0) / (before.macs_per_image or 1) <= 0.7
    (method,) = restore(target)[1].methods
    assert isinstance(method, TopK)
    assert f"found: keep = {method.keep}, at = {method.at}" in capsys.readouterr().out.replace("\n", " ")
    assert main([*args[:2], "--method", "dynamicvit", "--learned", "--epochs", "1"]) == 2
    assert "--learned is for topk and tome" in capsys.readouterr().err
