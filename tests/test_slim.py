"""What only structural pruning promises."""

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from baselines.errors import InputError
from baselines.macs import dense_macs
from baselines.vit import BlockSizes, VisionTransformer, ViTConfig
from compress import variant
from compress.methods import slim
from compress.methods.slim import Slim, count_weights
from compress.pruning.compensation import compensate, refit
from compress.pruning.importance import score
from compress.pruning.rotation import rotate
from compress.pruning.search import find, interpolate, measure
from compress.pruning.sizes import Sizes, choose
from compress.pruning.structure import Choice, cut, make_config

IMPORTANCES = ("taylor", "weight", "activation", "reconstruction")
SHAPES: dict[str, dict[str, Any]] = {
    "cls": {},
    "seq": {"pool": "seq", "tokenizer": "cct"},
    "distill": {"distill_token": True, "registers": 1, "layer_scale": 0.5},
    "qk_norm": {"qk_norm": True, "representation": 6, "pre_norm": True},
}
SMALLER = (BlockSizes(2, 4, 6, 20), None, BlockSizes(1, 8, 4, 32))


def make(shape: str = "cls", **changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    geometry: dict[str, Any] = {"image_size": (16, 12), "channels": 1, "patch_size": 4, "dim": 24, "depth": 3}
    geometry |= {"heads": 3, "mlp_dim": 32, "classes": 5} | SHAPES[shape] | changes
    model = VisionTransformer(ViTConfig(**geometry)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images(n: int = 6) -> Tensor:
    return torch.randn(n, 1, 16, 12, generator=torch.Generator().manual_seed(1))


def mask(model: VisionTransformer, choice: Choice) -> VisionTransformer:
    """The whole model, in which what does not stay is 0."""
    masked = copy.deepcopy(model)
    for place, block in enumerate(masked.encoder.blocks):
        for last in (block.get_submodule("attn.proj"), block.get_submodule("mlp.fc2")):
            assert isinstance(last, nn.Linear)
            stays = torch.zeros_like(last.weight[0])
            if place in choice.blocks:
                kept, sizes = choice.blocks[place], model.config.blocks[place]
                v = (kept.heads_H[:, None] * sizes.v_dim + kept.v_HV).flatten()
                stays[v if last.in_features == sizes.v_width else kept.mlp_M] = 1
            else:
                last.bias.data.zero_()
            last.weight.data.mul_(stays)
        if place in choice.blocks:
            kept, sizes = choice.blocks[place], model.config.blocks[place]
            stays = torch.zeros(sizes.heads, sizes.qk_dim)
            stays[kept.heads_H] = stays[kept.heads_H].scatter(1, kept.qk_HK, 1.0)
            qkv = block.get_submodule("attn.qkv")
            assert isinstance(qkv, nn.Linear)
            qkv.weight.data[: sizes.qk_width] *= stays.flatten()[:, None]
            qkv.bias.data[: sizes.qk_width] *= stays.flatten()
    return masked


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_what_is_cut_is_what_was_masked(shape: str, importance: Any) -> None:
    model = make(shape)
    blocks = tuple(each and each._replace(qk_dim=8) for each in SMALLER) if model.config.qk_norm else SMALLER
    sizes = Sizes(24, blocks)
    choice = choose(model, score(model, [images()], importance), sizes)
    small = cut(model, choice)
    torch.testing.assert_close(small(images()), mask(model, choice)(images()), rtol=0, atol=1e-5)
    assert small.config.blocks == [each for each in blocks if each]
    assert dense_macs(small.config) < dense_macs(model.config)


@pytest.mark.parametrize("shape", SHAPES)
def test_channels_leave_every_tensor(shape: str) -> None:
    model = make(shape)
    choice = choose(model, score(model, [images()], "taylor"), Sizes(16, tuple(model.config.blocks)))
    small = cut(model, choice)
    if model.pre_norm is None:
        torch.testing.assert_close(small.embed(images()), model.embed(images())[..., choice.dim_D])
    assert small(images()).shape == (6, 5)
    assert small.config.dim == 16
    assert small.state_dict().keys() == VisionTransformer(small.config).state_dict().keys()
    compensate(small, model, choice, [images()])
    assert small(images()).isfinite().all()


@torch.no_grad()
def test_compensation_never_makes_a_layer_worse() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(12, 7), torch.randn(40, 12) * torch.logspace(-6, 2, 12)
    x[:, 3] = x[:, 4]  # singular
    aim = torch.randn(40, 7)
    for damping in (1e-9, 1e-3, 10.0):
        fitted = copy.deepcopy(layer)
        refit(fitted, [x[:25], x[25:]], [aim[:25], aim[25:]], damping)
        assert (fitted(x) - aim).square().sum() <= (layer(x) - aim).square().sum()
    exact = copy.deepcopy(layer)
    refit(exact, [x], [layer(x)])
    torch.testing.assert_close(exact(x), layer(x))


@torch.no_grad()
def test_compensation_brings_the_tokens_nearer() -> None:
    model = make()
    choice = choose(model, score(model, [images()], "weight"), Sizes(24, SMALLER))
    plain, fitted = cut(model, choice), cut(model, choice)
    compensate(fitted, model, choice, [images(24)])
    aim = model.encoder(model.embed(images(24))).tokens

    def error(small: VisionTransformer) -> Tensor:
        return (small.encoder(small.embed(images(24))).tokens - aim).square().mean()

    assert error(fitted) < error(plain)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sizes", [None, ((3, 4, 16, 32), (1, 16, 30, 8), (2, 8, 8, 16))], ids=["even", "uneven"])
@torch.no_grad()
def test_a_rotated_model_is_the_same_one_with_less_in_its_last_dimensions(shape: str, sizes: Any) -> None:
    model = make(shape, block_sizes=sizes)
    turned = rotate(model, [images(40)])
    torch.testing.assert_close(turned(images()), model(images()), rtol=0, atol=1e-4)
    few = Sizes(24, tuple(each._replace(v_dim=each.v_dim // 2) for each in model.config.blocks))

    def error(whole: VisionTransformer) -> Tensor:
        small = cut(whole, choose(whole, score(whole, [images(40)], "activation"), few))
        return (small(images(40)) - model(images(40))).square().mean()

    assert error(turned) < error(model)


def test_all_of_it_is_the_model_bit_for_bit() -> None:
    model = make()
    whole = cut(model, choose(model, score(model, [], "weight"), Sizes.whole(model.config)))
    assert whole.config == model.config
    assert torch.equal(whole(images()), model(images()))
    same = variant.prepare(model, [Slim(keep=1.0)])
    assert torch.equal(same(images()), model(images()))


def test_what_is_even_is_an_ordinary_geometry() -> None:
    config = make().config
    even = make_config(config, 24, [BlockSizes(3, 8, 8, 16)] * 2)
    assert (even.block_sizes, even.depth, even.mlp_dim, even.head_dim) == (None, 2, 16, 0)
    assert make_config(config, 24, [BlockSizes(2, 8, 8, 16)] * 2).head_dim == 8
    assert make_config(config, 24, [BlockSizes(3, 8, 4, 16)] * 2).block_sizes == ((3, 8, 4, 16),) * 2


@pytest.mark.parametrize(
    "kinds", [("heads", "qk", "v", "mlp"), ("mlp",), ("blocks",), ("heads", "mlp", "dim", "blocks")]
)
def test_found_sizes_meet_the_budget(kinds: Any) -> None:
    model = make()
    for amount, cost in (({"target_macs": 0.8}, dense_macs), ({"keep": 0.8}, count_weights)):
        settings: dict[str, Any] = {"kinds": kinds, "multiple": 4, **amount}
        method = Slim(**settings)
        assert method.searches
        found = method.settle(model, [images(8)])
        assert not found.searches
        small = variant.prepare(model, [found])
        assert cost(small.config) <= 0.8 * cost(model.config)
        found.initialize(small, [images(8)])
        assert "cut_from" not in vars(small)
        assert all(width % 4 == 0 for each in small.config.blocks for width in each[1:])
        assert small(images()).isfinite().all()


def test_several_amounts_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(slim, "measure", lambda *args: asked.append(args) or measure(*args))
    model, batches = make(), [images(8)]
    found = [Slim(keep=keep, kinds=("mlp",), multiple=4).settle(model, batches) for keep in (0.9, 0.8)]
    assert found[0].sizes != found[1].sizes
    assert len(asked) == 1
    with torch.no_grad():
        model.head.weight.mul_(2)
    Slim(keep=0.9, kinds=("mlp",), multiple=4).settle(model, batches)
    Slim(keep=0.9, kinds=("mlp",), multiple=4).settle(model, [images(8)])
    assert len(asked) == 3


def test_what_costs_least_leaves_first() -> None:
    config = make().config
    table: Any = {("mlp", 0): [(32, 0.0), (16, 0.1)], ("mlp", 1): [(32, 0.0), (16, 5.0)]}
    found = find(config, table, count_weights, 0.95 * count_weights(config), 4)
    assert [each.mlp_dim for each in found.blocks if each] == [20, 32, 32]
    assert interpolate(table[("mlp", 0)], 24) == pytest.approx(0.05)


def test_more_removed_never_counts_as_less() -> None:
    model = make()
    table = measure(model, score(model, [images()], "taylor"), [images()], ("heads", "mlp", "blocks"), 4)
    for costs in table.values():
        sizes, losses = zip(*costs, strict=True)
        assert list(sizes) == sorted(sizes, reverse=True)
        assert list(losses) == sorted(losses)
        assert losses[0] == 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"keep": 0.5, "target_macs": 0.5}, "remove one of them"),
        ({"kinds": ()}, "kinds is empty"),
        ({"kinds": ("heads", "heads")}, "names one twice"),
    ],
)
def test_settings_that_contradict(settings: Any, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Slim(**settings)


def test_an_amount_out_of_reach_is_said() -> None:
    with pytest.raises(InputError, match="out of reach"):
        Slim(keep=0.01, multiple=4).settle(make(), [images()])
    with pytest.raises(InputError, match="out of reach"):
        variant.prepare(make(), [Slim(keep=0.01, spread=False)])


def test_activations_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="not finite on the calibration images"):
        refit(nn.Linear(3, 2), [torch.full((5, 3), torch.nan)], [torch.zeros(5, 2)])
