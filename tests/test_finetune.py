"""Training that begins with the weights of another: what is taken over, what is new, who learns how fast."""

from pathlib import Path
from typing import Any

import pytest
import torch

from baselines import transfer
from baselines.data import Data, TensorSplit
from baselines.errors import InputError
from baselines.optimizer import blocks_above, make_optimizer
from baselines.train import TrainConfig, Trainer, fit
from baselines.vit import VisionTransformer, ViTConfig
from compress import config, loading
from compress.checkpoints import checkpoint
from compress.checkpoints.initial import make_model, read_initial
from compress.cli import main
from compress.importers import Hints
from compress.training.build import make_baseline
from compress.training.run import open_run

CPU = torch.device("cpu")
GEOMETRY: dict[str, Any] = {"image_size": 8, "channels": 1, "patch_size": 2, "dim": 16, "depth": 3, "heads": 2}
GEOMETRY |= {"mlp_dim": 32, "classes": 3}
TRAIN = TrainConfig(epochs=2, batch_size=8, lr=3e-3, warmup_epochs=0.5, ema=0.5, crop_padding=0, precision="fp32")


def geometry(**changes: Any) -> ViTConfig:
    return ViTConfig(**{**GEOMETRY, **changes})


def made_model(seed: int = 0, **changes: Any) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(geometry(**changes)).eval()


def made_data(classes: int = 3, n: int = 24) -> Data:
    images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = TensorSplit(images, torch.arange(n) % classes)
    return Data("made", tuple("abcdef"[:classes]), split, split, (0.4,), (0.3,))


def saved(folder: Path, model: VisionTransformer, *, pretrained: bool = False) -> Path:
    """A checkpoint that knows the classes 0, 1, ..., and pixels of another brightness than `digits` has."""
    classes = tuple(str(i) for i in range(model.config.classes))
    content = checkpoint.Checkpoint(
        model.config, (), model.state_dict(), "digits", classes, (0.25,), (0.125,), pretrained=pretrained
    )
    checkpoint.save(folder / "start.pth", content)
    return folder / "start.pth"


# --- position embeddings


def test_positions_of_the_same_grid_are_the_same_bits() -> None:
    table = torch.randn(1, 17, 16)
    assert torch.equal(transfer.resize_positions(table, geometry(), geometry(classes=7)), table)


@pytest.mark.parametrize("size", [(16, 16), (8, 20), (4, 6)])
@pytest.mark.parametrize(("prefix", "changes"), [(0, {"pool": "mean"}), (1, {}), (2, {"distill_token": True})])
def test_prefix_tokens_stay_and_a_constant_stays_constant(
    size: tuple[int, int], prefix: int, changes: dict[str, Any]
) -> None:
    new = geometry(image_size=size, **changes)
    table = torch.cat([torch.randn(1, prefix, 16), torch.full((1, 16, 16), 0.7)], 1)
    resized = transfer.resize_positions(table, geometry(**changes), new)
    assert resized.shape == (1, new.tokens, 16)
    assert torch.equal(resized[:, :prefix], table[:, :prefix])
    assert torch.allclose(resized[:, prefix:], torch.tensor(0.7), atol=1e-6)


def test_a_ramp_stays_a_ramp() -> None:
    """Away from the border, at the centres of the new patches; rows are told from columns."""
    old, new = (geometry(image_size=(side, 2 * side), pool="mean") for side in (16, 32))
    row, column = (torch.arange(n) + 0.5 for n in old.grid)
    table = (row[:, None] + 10 * column).flatten()[None, :, None].expand(1, -1, 16)
    resized = transfer.resize_positions(table, old, new)[0].unflatten(0, new.grid)
    row, column = ((torch.arange(n) + 0.5) / 2 for n in new.grid)
    expected = (row[:, None] + 10 * column)[..., None].expand(-1, -1, 16)
    assert torch.allclose(resized[4:-4, 4:-4], expected[4:-4, 4:-4], atol=1e-4)


# --- what is taken over


def test_the_same_geometry_and_classes_give_the_same_logits(tmp_path: Path) -> None:
    start, images = made_model(tokenizer="cct", pool="seq"), torch.randn(4, 1, 8, 8)
    initial = read_initial(str(saved(tmp_path, start)))
    again = make_model(start.config, 1, initial, ("0", "1", "2")).eval()
    assert torch.equal(again(images), start(images))
    other = make_model(start.config.model_copy(update={"drop_path": 0.5}), 1, initial, ("0", "1", "2")).eval()
    assert torch.equal(other(images), start(images))  # settings of training are free


@pytest.mark.parametrize(
    ("classes", "pretrained", "new"),
    [("012", False, False), ("012", True, True), ("210", False, True), ("abcd", False, True)],
)
def test_the_head_is_new_where_it_knows_other_classes(
    tmp_path: Path, classes: str, pretrained: bool, new: bool
) -> None:
    start = made_model(distill_token=True)
    initial = read_initial(str(saved(tmp_path, start, pretrained=pretrained)))
    model = make_model(geometry(distill_token=True, classes=len(classes)), 1, initial, tuple(classes))
    for name, value in start.state_dict().items():
        taken = model.state_dict()[name]
        same = taken.shape == value.shape and torch.equal(taken, value)
        if not name.endswith("head.bias"):  # 0 in every new model
            assert same != (new and name.endswith("head.weight")), name


def test_another_image_size_changes_positions_only(tmp_path: Path) -> None:
    start = made_model()
    model = make_model(geometry(image_size=12), 1, read_initial(str(saved(tmp_path, start))), ("0", "1", "2"))
    apart = [name for name, value in start.state_dict().items() if not torch.equal(value, model.state_dict()[name])]
    assert apart == ["pos_embed"]
    assert model(torch.randn(2, 1, 12, 12)).shape == (2, 3)


def test_a_geometry_that_disagrees_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = saved(tmp_path, made_model())
    (tmp_path / "other.toml").write_text("[model]\ndim = 32\npool = 'mean'\nimage_size = 12\n")
    settings = config.read(tmp_path / "other.toml", init=path)
    with pytest.raises(InputError) as refused:
        open_run(settings, tmp_path, CPU, print)
    told = "has dim 16, not 32 and pool 'cls', not 'mean'; leave dim and pool out of [model], or train from scratch"
    assert str(refused.value) == f"--init {path} {told}"


def test_a_file_without_all_its_weights_is_refused() -> None:
    start = made_model()
    state = {name: value for name, value in start.state_dict().items() if name != "head.bias"}
    with pytest.raises(InputError, match=r"x\.pth does not hold the weights .* \(head\.bias\)"):
        transfer.start_from(made_model(1), state, start.config, new_head=False, source="x.pth")


def test_geometry_data_and_normalisation_come_from_the_checkpoint_unless_said(tmp_path: Path) -> None:
    start = saved(tmp_path, made_model(norm="batch"))
    settings = config.read(None, init=start)
    assert (settings.data, settings.model.norm, settings.model.image_size) == ("digits", "batch", (8, 8))
    assert config.read(None, "cifar10", init=start).data == "cifar10"
    (tmp_path / "larger.toml").write_text(f"init = '{start}'\n[model]\nimage_size = 12\ndrop_path = 0.3\n")
    larger = config.read(tmp_path / "larger.toml")
    assert larger.model == geometry(norm="batch", image_size=12, drop_path=0.3, classes=10)

    opened = open_run(larger, tmp_path, CPU, print)
    assert (opened.data.mean, opened.data.std) == ((0.25,), (0.125,))
    assert next(opened.data.test.fetch([torch.arange(2)], CPU)).shape == (2, 1, 12, 12)


def test_what_is_said_of_images_wins_over_the_checkpoint(tmp_path: Path) -> None:
    settings = config.read(None, init=saved(tmp_path, made_model()))
    opened = [open_run(settings, tmp_path, CPU, print, hints=Hints(normalize=how)).data for how in ("half", "data")]
    plain = open_run(config.read(None, "digits"), tmp_path, CPU, print).data
    assert (opened[0].mean, opened[0].std) == ((0.5,), (0.5,))
    assert (opened[1].mean, opened[1].std) == (plain.mean, plain.std) != ((0.25,), (0.125,))


def test_preprocessing_of_no_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--normalize", "half", "--resize", "crop", "--out", str(tmp_path / "runs")]) == 2
    assert "--normalize and --resize: only valid with --init FILE; add it, or remove them" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_trained_model_is_kept_under_the_weights_it_began_with(tmp_path: Path) -> None:
    keys = set()
    for seed in (0, 1):
        settings = config.read(None, init=saved(tmp_path, made_model(seed)))
        settings = settings.model_copy(update={"train": TRAIN.model_copy(update={"epochs": 0})})
        built = make_baseline(open_run(settings, tmp_path / "runs", CPU, print))
        keys.add(built.key)
        assert torch.equal(loading.restore(built.path)[0].pos_embed, made_model(seed).pos_embed)
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["bench", "--checkpoint", "START"], "begins a training and --checkpoint START replaces it; give only one"),
        (["train", "--config", "WRONG"], "has depth 3, not 4; leave depth out of [model]"),
    ],
)
def test_command_lines_that_cannot_be(
    args: list[str], says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    start, wrong = str(saved(tmp_path, made_model(classes=10))), tmp_path / "wrong.toml"
    wrong.write_text("[model]\ndepth = 4\n")
    known = {"START": start, "WRONG": str(wrong)}
    given = [known.get(arg, arg) for arg in args]
    assert main([*given, "--init", start, "--out", str(tmp_path / "runs")]) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert says.replace("START", start) in said
    assert "Traceback" not in said


# --- who learns how fast


@pytest.mark.parametrize(
    ("name", "above"),
    [
        ("patch_embed.weight", 4),
        ("patch_embed.2.bias", 4),
        ("pos_embed", 4),
        ("cls_token", 4),
        ("encoder.blocks.0.attn.qkv.weight", 3),
        ("encoder.blocks.2.norm1.weight", 1),
        ("norm.weight", 0),
        ("sequence_pool.score.weight", 0),
        ("head.weight", 0),
    ],
)
def test_layer_decay_counts_the_blocks_above(name: str, above: int) -> None:
    assert blocks_above(name, 3) == above


def test_learning_rates_of_all_weights() -> None:
    model = made_model(distill_token=True)
    recipe = TRAIN.model_copy(update={"layer_decay": 0.5, "head_lr": 10.0})
    groups = make_optimizer(model, recipe, {"encoder.blocks.1": 3.0}).param_groups
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    by_hand = {"head": 10, "distill_head": 10, "norm": 1, "pos_embed": 1 / 16, "cls_token": 1 / 16}
    by_hand |= {"distill_token": 1 / 16, "patch_embed": 1 / 16}
    blocks = [1 / 8, 3 / 4, 1 / 2]
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        assert scales[id(parameter)] == (blocks[int(parts[2])] if parts[0] == "encoder" else by_hand[parts[0]]), name


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_frozen_backbone_keeps_its_bits(optimizer: str) -> None:
    model = made_model(norm="batch", dropout=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = TRAIN.model_copy(update={"freeze": True, "optimizer": optimizer, "weight_decay": 0.5})
    fit(model, made_data(), recipe, device=CPU, seed=0)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_step_of_sgd_by_hand() -> None:
    """Nesterov: the first step moves by lr (1 + momentum) times the gradient; matrices also decay."""
    model = made_model()
    recipe = TRAIN.model_copy(update={"optimizer": "sgd", "lr": 0.1, "momentum": 0.5, "weight_decay": 0.2})
    optimizer = make_optimizer(model, recipe, {})
    weight, bias = model.head.weight.detach().clone(), model.head.bias.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert torch.allclose(model.head.weight, weight - 0.1 * 1.5 * (1 + 0.2 * weight))
    assert torch.allclose(model.head.bias, bias - 0.1 * 1.5)


def test_a_training_of_so_many_steps() -> None:
    """24 images in batches of 8: 3 steps an epoch, so 5 steps are one epoch and most of another."""
    recipe = TRAIN.model_copy(
        update={"steps": 5, "warmup_steps": 2, "epochs": 70, "schedule": "linear", "final_lr": 0.0, "optimizer": "sgd"}
    )
    trainer = Trainer(made_model(), made_data(), recipe, CPU, 0)
    assert trainer.total_steps == 5
    assert [trainer.lr_factor(step) for step in range(6)] == pytest.approx([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0])
    history = fit(made_model(), made_data(), recipe, device=CPU, seed=0)
    assert [entry["epoch"] for entry in history] == [1, 2]
    assert history[-1]["lr"] == pytest.approx(recipe.lr / 3)
