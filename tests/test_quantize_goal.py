"""Layers that go back to float for an accuracy goal, and how much the draw of calibration images matters."""

import hashlib
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from baselines.data import Data, Split, TensorSplit
from baselines.errors import InputError
from baselines.validation import hold_out
from baselines.vit import VisionTransformer, ViTConfig
from compress import variant
from compress.checkpoints.checkpoint import Checkpoint
from compress.evaluate import take_test_images
from compress.methods import Int8, TopK
from compress.quantization.linear import quantized_layers
from compress.quantization.sensitivity import MOST, compute_logits, sqnr_db
from compress.training.data import describe_calibration, sample_held_out_images, sample_images
from compress.variant import Variant
from compress.verbs.quantize.accuracy_control import (
    count_right,
    explain,
    find,
    in_integers,
    ranking_table,
    sensitivities,
)
from compress.verbs.quantize.jury import Jury, choose_jury
from compress.verbs.quantize.study import Spread, study, table

CONFIG = ViTConfig(image_size=8, channels=1, patch_size=2, dim=24, depth=2, heads=2, mlp_dim=48)
LAYERS = 4 * CONFIG.depth
QUICK = Int8(observer="minmax", rescale=False)  # rescaling would take the poison off
POISONED = "blocks.1.mlp.fc2"
PLAIN = Variant(())


def data(train: int = 200, test: int = 60) -> Data:
    generator = torch.Generator().manual_seed(0)
    splits = [
        TensorSplit(
            torch.randint(256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8),
            torch.randint(10, (n,), generator=generator),
        )
        for n in (train, test)
    ]
    return Data("noise", tuple("0123456789"), *splits, (0.5,), (0.29,))


def healthy() -> VisionTransformer:
    """Its weights are in 16 bits already, as int8 keeps those that it does not quantise."""
    torch.manual_seed(0)
    return VisionTransformer(CONFIG).half().float().eval()


@torch.no_grad()
def poisoned() -> VisionTransformer:
    """A model whose last layer decides everything, and whose weights int8 rounds to 0: one input, which is always 0,
    has a weight a million times as large as the others."""
    model = healthy()
    mlp = model.encoder.blocks[1].mlp
    mlp.fc2.weight.mul_(20)
    mlp.fc1.weight[0].zero_()
    mlp.fc1.bias[0] = -30.0  # GELU of it is 0
    mlp.fc2.weight[:, 0] = 1e6
    return model


def judged_by(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The images with the model's own answers as labels: it is always right."""
    return [(images, compute_logits(model, [images]).argmax(1)) for images, _ in batches]


def printed(what: object) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("tokens", [[], [TopK(keep=0.7)]], ids=["vit", "topk"])
def test_the_goal_is_met_by_the_poisoned_layer_in_float_and_no_other(tokens: list[TopK]) -> None:
    model, images = variant.prepare(poisoned(), tokens).eval(), data()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calibration = sample_images(images, 64)
    judged = judged_by(model, sample_held_out_images(images, 100, after=64))

    ranking = sensitivities(model, QUICK, calibration)
    assert ranking[0].name == f"encoder.{POISONED}"
    assert ranking[0].sqnr_db < 10 < ranking[1].sqnr_db
    assert [each.sqnr_db for each in ranking] == sorted(each.sqnr_db for each in ranking)
    assert math.isclose(sum(each.share for each in ranking), 1)
    assert ranking[0].share == pytest.approx(2 / 16)  # qkv, proj, fc1, fc2 are 3, 1, 2, 2 times dim squared, twice
    assert POISONED in printed(ranking_table(ranking)).splitlines()[4]

    goal = find(model, QUICK, calibration, judged, max_drop=10, ranking=ranking)
    assert goal.reached
    assert goal.method == QUICK.model_copy(update={"skip": (POISONED,)})
    assert goal.tried[0][0] == 0
    assert goal.tried[0][1] > 30
    assert len(goal.tried) <= 1 + math.log2(LAYERS)
    again = in_integers(model, goal.method, calibration)
    assert len(quantized_layers(again)) == LAYERS - 1
    assert goal.drop == 100 - count_right(again, judged)
    assert f"--max-drop 10 is met with 1 of {LAYERS} layers in float, {POISONED}: top-1" in explain(goal)
    assert "from 100.0% on 100 training images" in explain(goal)
    assert "12.5% of the weights" in explain(goal)

    assert not quantized_layers(model)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_goals_that_are_met_at_once_and_never() -> None:
    model, images = healthy(), data()
    calibration = sample_images(images, 64)
    judged = judged_by(model, sample_held_out_images(images, 100, after=64))
    kept_by_hand = Int8(observer="minmax", skip=("qkv",))
    at_once = find(model, kept_by_hand, calibration, judged, max_drop=100)
    assert (at_once.reached, at_once.method, len(at_once.tried)) == (True, kept_by_hand, 1)
    assert f"met with all {LAYERS - CONFIG.depth} layers in integers" in explain(at_once)
    never = find(model, QUICK, calibration, judged, max_drop=-100)
    assert not never.reached
    assert [count for count, _ in never.tried] == [0, 4, 6, 7]
    assert never.drop == min(drop for _, drop in never.tried)
    assert f"--max-drop -100 cannot be reached: even with {LAYERS - 1} of {LAYERS} layers in float" in explain(never)


@pytest.mark.parametrize("activations", ["static", "token"])
def test_a_layer_ranks_by_what_the_model_with_it_alone_in_integers_answers(activations: str) -> None:
    model, calibration = healthy(), sample_images(data(), 64)
    method = Int8(observer="minmax", activations=activations)  # type: ignore[arg-type]
    wanted = compute_logits(model, calibration)
    for each in sensitivities(model, method, calibration):
        if each.name.endswith("fc2"):  # nothing before it is rescaled for its sake
            others = [name for name in quantized_layers(in_integers(model, method, calibration)) if name != each.name]
            alone = method.model_copy(update={"skip": tuple(name.removeprefix("encoder.blocks.") for name in others)})
            got = compute_logits(in_integers(model, alone, calibration), calibration)
            assert each.sqnr_db == pytest.approx(sqnr_db(wanted, got), abs=0.05)


def test_sqnr_in_closed_form() -> None:
    x = torch.tensor([[3.0, 4.0]])
    assert sqnr_db(x, x) == MOST
    assert sqnr_db(x, x * 1.1) == pytest.approx(20, abs=1e-4)
    assert sqnr_db(x, 2 * x) == 0
    assert sqnr_db(torch.zeros(1), torch.ones(1)) == -math.inf


def test_calibration_images_are_fixed_and_none_of_them_judges() -> None:
    n, count = 70, 40
    train = TensorSplit(torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 1, 8, 8), torch.arange(n))
    numbered = Data("numbered", ("a",), train, train, (0.0,), (1.0,))

    def numbers(batches: list[Tensor]) -> list[int]:
        return [round(x) for x in (torch.cat(batches)[:, 0, 0, 0] * 255).tolist()]

    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).tolist()
    assert numbers(sample_images(numbered, count)) == order[:count]
    assert numbers(sample_images(numbered, count, seed=1)) != order[:count]
    judged = sample_held_out_images(numbered, 1000, after=count)
    assert numbers([images for images, _ in judged]) == order[count:]
    assert torch.cat([labels for _, labels in judged]).tolist() == order[count:]
    with pytest.raises(InputError, match=r"70 training images and all of them calibrate; lower --calibration-images"):
        sample_held_out_images(numbered, 10, after=n)


def test_whoever_judges_a_goal_was_not_learned_from(tmp_path: Path) -> None:
    images = data(train=900, test=200)
    path, tested = tmp_path / "best_vit_model.pth", take_test_images(images)
    content = Checkpoint(CONFIG, (), {}, dataset="noise", classes=images.classes, mean=(0.5,), std=(0.29,))

    def choose(content: Checkpoint, which: Variant = PLAIN) -> tuple[Jury, list[int]]:
        found = choose_jury(path, content, which, images, None, tested, 100)
        return found, tested.order.tolist()

    def seen(batches: list[tuple[Tensor, Tensor]], split: Split) -> set[int]:
        """Numbers of images, by their pixels."""
        assert isinstance(split, TensorSplit)
        raw = {each.numpy().tobytes(): number for number, each in enumerate(split.images)}
        pixels = (torch.cat([images for images, _ in batches]) * 0.29 + 0.5) * 255
        return {raw[each.round().to(torch.uint8).numpy().tobytes()] for each in pixels}

    def check_halves(content: Checkpoint, which: Variant = PLAIN) -> None:
        jury, order = choose(content, which)
        assert seen(jury.batches, images.test) == set(order[:100])
        assert (jury.scored.order.tolist(), jury.tested) == (order[100:], 100)
        assert "test images, which the figures below leave out" in jury.called

    check_halves(content)  # nobody knows what it learned from
    record = tmp_path / "config.toml"
    record.write_text('data = "noise"\n[train]\nvalidation = 0.3\n')
    jury, _ = choose(content)
    kept = set(hold_out(images.train, 0.3)[1].tolist())
    calibrating = set(torch.randperm(900, generator=torch.Generator().manual_seed(0))[:100].tolist())
    assert seen(jury.batches, images.train) == kept - calibrating
    assert (len(jury.scored), jury.tested) == (200, 0)
    check_halves(content, Variant((TopK(),)))  # its fine-tuning saw all of them
    check_halves(replace(content, dataset="others"))
    check_halves(replace(content, origin={"family": "timm"}))
    record.write_text('data = "noise"\n[train]\nvalidation = 0.05\n')
    check_halves(content)  # too few
    with pytest.raises(InputError, match="one half of the test images"):
        choose_jury(path, content, PLAIN, images, None, take_test_images(images, 1), 100)


def test_calibration_is_described_by_the_digest_of_indices_and_pixels() -> None:
    images = data(300)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:150]
    assert isinstance(images.train, TensorSplit)
    pixels = images.train.images[order].numpy().tobytes()
    expected = {"images": 150, "sha256": hashlib.sha256(order.numpy().astype("<i8").tobytes() + pixels).hexdigest()}
    assert describe_calibration(images, 150) == expected
    assert describe_calibration(images, 1000)["images"] == 300
    images.train.images[order[-1], 0, 0, 0] ^= 1
    assert describe_calibration(images, 150)["sha256"] != expected["sha256"]


@torch.no_grad()
def test_nothing_spreads_where_quantising_is_exact() -> None:
    model = healthy()
    for module in model.encoder.blocks.modules():
        if isinstance(module, nn.Linear):
            module.weight.zero_()
            module.bias.normal_()
    spreads = study(model, QUICK, data(train=100), sizes=(8, 16, 1024), seeds=3, test_images=40)
    assert spreads == [Spread(size, (0.0,) * 3, (MOST,) * 3) for size in (8, 16)]
    assert "1024" in printed(table(spreads, (8, 16, 1024)))
    with pytest.raises(InputError, match="too few"):
        study(model, QUICK, data(train=7), sizes=(8,))


def test_a_study_of_a_real_model_spreads_and_its_table_says_by_how_much() -> None:
    first, second = (study(healthy(), QUICK, data(), sizes=(16,), seeds=3) for _ in "ab")
    assert first == second
    assert len(set(first[0].sqnr_db)) == 3
    line = printed(table([Spread(16, (-1.0, -2.0, -3.0), (30.0, 40.0, 50.0))], (16,))).splitlines()[4]
    assert [cell.strip() for cell in line.split("│")[1:-1]] == ["16", "-2.00 ± 1.00", "-3.00", "40.0 ± 10.00", "30.0"]
