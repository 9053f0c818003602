"""What other libraries build into a ViT, under everything that is done to one here."""

from pathlib import Path
from typing import Any

import pytest
import torch

from baselines import transfer
from baselines.data import Data, TensorSplit
from baselines.errors import InputError
from baselines.macs import dense_macs
from baselines.pretrain import PretrainConfig, Pretrainer
from baselines.train import fit
from baselines.vit import VisionTransformer, ViTConfig
from compress import variant
from compress.checkpoints.checkpoint import Checkpoint
from compress.exporters.onnx import export_onnx
from compress.measure import cost, rollout
from compress.training import finetuning

SHAPES: dict[str, dict[str, Any]] = {
    "class token": {
        "dim": 40,
        "heads": 3,
        "head_dim": 24,
        "tokenizer": "normed",
        "representation": 20,
        "pre_norm": True,
    },
    "mean": {"dim": 24, "heads": 3, "head_dim": 64, "pool": "mean", "norm_at": "pooled", "pre_norm": True}
    | {"tokenizer": "normed", "representation": 12, "registers": 2, "activation": "gelu_tanh", "norm_eps": 1e-6},
}
FIXED = ("topk", "tome", "dynamicvit")  # as many tokens of every image


def made(shape: str, **changes: Any) -> VisionTransformer:
    """A model whose weights all count."""
    geometry = {"image_size": (16, 24), "patch_size": 4, "depth": 4, "mlp_dim": 80, "classes": 5}
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = VisionTransformer(ViTConfig(**{**geometry, **SHAPES[shape], **changes}))
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def images(n: int) -> torch.Tensor:
    return torch.randn(n, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def ready(model: VisionTransformer, name: str) -> tuple[VisionTransformer, variant.Variant]:
    """A variant of the model, prepared and calibrated, not converted."""
    which = variant.parse(name)
    return finetuning.calibrate(
        variant.prepare(model, which.methods), which.methods, [images(16)], torch.device("cpu")
    ), which


@pytest.mark.parametrize("shape", SHAPES)
def test_methods_counters_pictures_and_engines_take_it(shape: str, tmp_path: Path) -> None:
    model = made(shape)
    for name in ("vit", *FIXED, "avit", "narrow"):
        prepared, which = ready(model, name)
        shipped = variant.convert(prepared, which.methods)
        torch.testing.assert_close(shipped(images(3)), prepared(images(3)))
        assert prepared.train()(images(3)).shape == (3, 5)
        spent = cost.measure_batches(prepared.eval(), [images(3)])
        if name in FIXED:
            assert set(cost.count_with_libraries(spent).values()) == {spent.executed(1, padded=False)}
        traced = rollout.trace(shipped, images(1))
        torch.testing.assert_close(traced.logits, shipped(images(1))[0])
        assert traced.rollout_N.sum().item() == pytest.approx(1)
        if name == "narrow":
            assert dense_macs(shipped.config) / dense_macs(model.config) == pytest.approx(0.7, rel=0.03)

    (rounded, _), (prepared, which) = ready(model, "bf16"), ready(model, "int8")
    shipped = variant.convert(prepared, which.methods)
    for other in (rounded, shipped):
        assert 0 < (other(images(9)) - model(images(9))).abs().max() < 0.1 * model(images(9)).abs().max()
    content = Checkpoint(model.config, (), {}, "", tuple("abcde"), (0.5,) * 3, (0.5,) * 3)
    assert export_onnx(shipped, tmp_path / "int8.onnx", images(24), content).max_difference < 0.05


@pytest.mark.parametrize("shape", SHAPES)
def test_it_learns_without_labels_and_begins_another_training(shape: str) -> None:
    model = made(shape)
    pixels = torch.randint(0, 256, (16, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = TensorSplit(pixels, torch.arange(16) % 5)
    data = Data("made", tuple("abcde"), split, split, (0.5,) * 3, (0.3,) * 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = PretrainConfig(epochs=1, batch_size=8, warmup_epochs=0.5, ema=0.5, crop_padding=0, precision="fp32")
    fit(model, data, recipe, device=torch.device("cpu"), seed=0, trainer=Pretrainer)
    assert {name.split(".")[0] for name, value in model.state_dict().items() if torch.equal(value, before[name])} <= {
        "head",
        "representation",
    }
    larger = made(shape, image_size=(16, 32), classes=7)
    transfer.start_from(larger, model.state_dict(), model.config, new_head=True, source="x.pth")
    apart = [name for name, value in model.state_dict().items() if not torch.equal(value, larger.state_dict()[name])]
    assert apart == ["pos_embed", "head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"activation": "gelu"}, "activation 'gelu_tanh', not 'gelu'"),
        ({"norm_at": "tokens"}, "norm_at 'pooled', not 'tokens'"),
        ({"pre_norm": False}, "pre_norm True, not False"),
        ({"head_dim": 8}, "head_dim 64, not 8"),
        ({"representation": 0}, "representation 12, not 0"),
        ({"registers": 1}, "registers 2, not 1"),
        ({"layer_scale": 0.1}, "layer_scale 0.0, not 0.1"),
        ({"qk_norm": True}, "qk_norm False, not True"),
    ],
)
def test_what_weights_depend_on_cannot_change_between_trainings(changes: dict[str, Any], told: str) -> None:
    old = made("mean").config
    transfer.check(old, old.model_copy(update={"norm_eps": 1e-5, "drop_path": 0.1, "dropout": 0.1}), "x.pth")
    with pytest.raises(InputError) as refused:
        transfer.check(old, old.model_copy(update=changes), "x.pth")
    assert str(refused.value) == f"x.pth has {told}; leave {next(iter(changes))} out of [model], or train from scratch"
