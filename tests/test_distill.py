"""Distillation: loss terms in closed form, and what of them is part of a model and what is not."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT

from baselines.data import Data, TensorSplit
from baselines.errors import InputError
from baselines.guided import GuidedTrainer
from baselines.train import Step, TrainConfig
from baselines.vit import VisionTransformer, ViTConfig
from compress import config, variant
from compress.methods import METHODS, AViT, Distill, Int8, Narrow
from compress.methods.distill import hard, soft
from compress.training import finetuning
from compress.variant import Variant

CPU = torch.device("cpu")
GEOMETRY: dict[str, Any] = {"image_size": 8, "channels": 1, "patch_size": 2, "dim": 16, "depth": 2, "heads": 2}
GEOMETRY |= {"mlp_dim": 24, "classes": 3}
TRAIN = TrainConfig(epochs=2, batch_size=8, lr=3e-3, warmup_epochs=0, ema=0.5, crop_padding=0, flip=False)


def make_model(seed: int = 0, **changes: Any) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(ViTConfig(**(GEOMETRY | changes)))


def some_images(n: int = 24, size: int = 8) -> torch.Tensor:
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(1))


def made_data(labels: torch.Tensor) -> Data:
    split = TensorSplit((some_images(len(labels)) * 255).to(torch.uint8), labels)
    return Data("made", ("a", "b", "c"), split, split, (0.5,), (0.3,))


def step_of(student: VisionTransformer, master: VisionTransformer, projected: torch.Tensor | None = None) -> Step:
    images = some_images()
    output = replace(student.train().compute_output(images), projected_tokens=projected)
    with torch.no_grad():
        taught = master.eval().compute_output(images)
    return Step(student, images, torch.zeros(24, dtype=torch.long), output.logits, output, master, taught)


def learn(method: Distill, labels: torch.Tensor, student: VisionTransformer | None = None) -> VisionTransformer:
    return finetuning.apply(
        student or make_model(),
        (),
        [method],
        made_data(labels),
        teacher=make_model(1, dim=24),
        training=TRAIN,
        calibration=[],
        device=CPU,
        seed=0,
        title="",
    )[0]


class TestAnswers:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_two_classes_in_closed_form(self, temperature: float) -> None:
        p = 1 / (1 + math.exp(-2 / temperature))
        expected = temperature**2 * (math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p))
        loss = soft(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]), temperature)
        assert loss.item() == pytest.approx(expected, rel=1e-5)

    def test_equal_answers_cost_nothing_and_a_batch_is_a_mean(self) -> None:
        logits, taught = torch.randn(2, 5, 7)
        assert soft(logits, logits + 3, 2.0).item() == pytest.approx(0, abs=1e-6)
        once, twice = soft(logits, taught, 2.0), soft(logits.repeat(2, 1), taught.repeat(2, 1), 2.0)
        assert twice.item() == pytest.approx(once.item(), rel=1e-5)

    def test_the_gradient_is_as_large_at_any_high_temperature(self) -> None:
        taught = torch.randn(4, 7)
        sizes = []
        for temperature in (50.0, 200.0):
            logits = torch.zeros(4, 7, requires_grad=True)
            soft(logits, taught, temperature).backward()
            assert logits.grad is not None
            sizes.append(logits.grad.norm().item())
        limit = (taught - taught.mean(1, keepdim=True)).norm().item() / (4 * 7)
        assert sizes == pytest.approx([limit, limit], rel=0.03)

    def test_hard_is_the_cross_entropy_against_the_class_chosen(self) -> None:
        logits, taught = torch.randn(2, 5, 7)
        expected = -logits.log_softmax(1)[range(5), taught.argmax(1)].mean()
        assert hard(logits, taught).item() == pytest.approx(expected.item())

    def test_labels_and_teacher_share_the_objective(self) -> None:
        method, data = Distill(weight=0.3, kind="hard"), made_data(torch.arange(24) % 3)
        student, master = make_model(), make_model(1).eval()
        trainer = finetuning.make_trainer([method], student, master)(
            student, data, TRAIN, CPU, 0, [method.loss_terms], master, {}
        )
        batch = next(trainer.feed.epoch(0))
        logits, taught = student(batch.images), master(batch.images)
        losses = trainer.losses(batch)[0]
        labelled = F.cross_entropy(logits, batch.labels, label_smoothing=0.1)
        assert losses["cross_entropy"].item() == pytest.approx(0.7 * labelled.item(), rel=1e-5)
        assert losses["distill"].item() == pytest.approx(0.3 * hard(logits, taught).item(), rel=1e-5)

    def test_at_weight_1_labels_do_not_matter_and_at_0_the_teacher_does_not(self) -> None:
        labels = torch.arange(24) % 3
        alone = learn(Distill(weight=1), labels), learn(Distill(weight=1), labels.flip(0))
        assert torch.equal(alone[0](some_images()), alone[1](some_images()))
        alone = learn(Distill(weight=0), labels), learn(Distill(weight=0, kind="hard"), labels)
        assert torch.equal(alone[0](some_images()), alone[1](some_images()))
        assert not torch.equal(alone[0](some_images()), learn(Distill(), labels)(some_images()))

    def test_a_distillation_token_answers_the_teacher(self) -> None:
        student = make_model(distill_token=True)
        Distill().loss_terms(step_of(student, make_model(1)))["distill"].backward()
        reached = {name for name, weight in student.named_parameters() if weight.grad is not None and weight.grad.any()}
        assert "distill_head.weight" in reached
        assert "head.weight" not in reached


class TestHints:
    @pytest.mark.parametrize("pool", ["cls", "mean", "seq"])
    def test_a_copy_has_nothing_left_to_learn(self, pool: str) -> None:
        method, model = Distill(hint=2, relation=3), make_model(pool=pool)
        terms = method.loss_terms(step_of(model, copy.deepcopy(model)))
        assert [terms[name].item() for name in ("hint", "relation")] == pytest.approx([0, 0], abs=1e-10)
        terms = method.loss_terms(step_of(model, make_model(1, pool=pool)))
        assert terms["hint"].item() == pytest.approx(2 * 2, rel=0.3)  # nothing in common
        assert terms["relation"] > 0

    def test_another_width_and_another_grid(self) -> None:
        """Tokens of a 4x4 grid, all of a quarter alike, are those of a 2x2 grid."""
        student, master = make_model(patch_size=4, pool="mean"), make_model(1, dim=24, distill_token=True)
        tokens = torch.randn(24, 4, 24)
        quarters = tokens.unflatten(1, (2, 2)).repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)
        step = step_of(student, master, projected=tokens.requires_grad_())
        assert step.teacher_output is not None
        shown = torch.cat([torch.randn(24, 2, 24), quarters.detach()], 1)
        step = replace(step, teacher_output=replace(step.teacher_output, tokens=shown))
        terms = Distill(hint=1, relation=1).loss_terms(step)
        assert terms["hint"].item() == pytest.approx(0, abs=1e-10)
        assert terms["relation"] > 0

    def test_the_projection_is_learned_and_does_not_ship(self) -> None:
        method, student, master = Distill(hint=1), make_model(), make_model(1, dim=24).eval()
        data = made_data(torch.arange(24) % 3)
        assert method.make_projector(student, make_model(1)) is None
        run = finetuning.make_trainer([method], student, master)(
            student, data, TRAIN, CPU, 0, [method.loss_terms], master, {}
        )
        (projection,) = run.projectors
        before = projection.linear.weight.detach().clone()
        run.epoch(lambda _: None)
        assert not torch.equal(projection.linear.weight, before)
        run.finish()
        assert student.state_dict().keys() == make_model().state_dict().keys()
        assert sum(p.numel() for p in learn(method, data.train.labels).parameters()) == sum(
            p.numel() for p in make_model().parameters()
        )

    def test_a_training_with_a_projection_goes_on_with_the_same_bits(self) -> None:
        method, data, ends = Distill(hint=1), made_data(torch.arange(24) % 3), []

        def begin() -> GuidedTrainer:
            student, master = make_model(), make_model(1, dim=24).eval()
            start = finetuning.make_trainer([method], student, master)
            return start(student, data, TRAIN, CPU, 0, [method.loss_terms], master, {})

        for interrupted in (False, True):
            run = begin()
            run.epoch(lambda _: None)
            if interrupted:
                state = copy.deepcopy(run.state())
                torch.manual_seed(99)
                run = begin()
                run.load_state(state)
            run.epoch(lambda _: None)
            ends.append([*run.average.module.state_dict().values(), *run.projectors.state_dict().values()])
        assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))

    def test_tokens_that_are_not_there_are_refused(self) -> None:
        master = variant.prepare(make_model(1), [AViT()])
        with pytest.raises(InputError, match="the teacher hands out 1 of its 17; set both to 0"):
            Distill(relation=1).loss_terms(step_of(make_model(), master))
        assert Distill().loss_terms(step_of(make_model(), master)).keys() == {"distill"}
        halting = variant.prepare(make_model(), [AViT()])  # while it learns, it has all of them
        assert Distill(hint=1, relation=1).loss_terms(step_of(halting, make_model(1)))["hint"].isfinite()


def test_without_token_methods_a_new_geometry_learns_from_the_teacher_at_once() -> None:
    def stages(*methods: Any) -> list[str]:
        return [stage.name for stage in Variant(methods).training_steps]

    assert stages(Narrow(), Distill(), Int8()) == ["narrow_distill", "narrow_distill_int8"]
    assert stages(Narrow(), AViT(), Distill()) == ["narrow", "narrow_avit_distill"]


def test_the_file_of_settings_holds_the_defaults() -> None:
    assert METHODS["distill"](**config.read(ROOT / "configs/distill.toml").methods["distill"]) == Distill()
