"""Checkpoints of vit-pytorch, of what was copied from it since 2020, and of jeonsworld's ViT-pytorch."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import vit_pytorch
from torch import Tensor, nn

from baselines.errors import InputError
from compress import loading
from compress.checkpoints import checkpoint
from compress.importers import Hints

SMALL: dict[str, Any] = {"image_size": 16, "patch_size": 4, "num_classes": 5, "dim": 32, "depth": 2, "mlp_dim": 48}


def drawn(model: nn.Module) -> nn.Module:
    """The model with every parameter at random, such that all of them count."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return model.eval()


def saved(model: nn.Module, folder: Path, form: str = "pth") -> Path:
    path = folder / f"weights.{form}"
    (torch.save if form == "pth" else safetensors.torch.save_file)(model.state_dict(), path)
    return path


def agree(model: nn.Module, path: Path, hints: Hints) -> checkpoint.Checkpoint:
    """Asserts that the file answers as the model does, and hands out what was read."""
    ours, _, content = loading.restore(path, hints)
    config = content.config
    images = torch.randn(5, config.channels, *config.image_size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(images)
        torch.testing.assert_close(ours(images), expected, rtol=0, atol=1e-5)
    return content


@pytest.mark.parametrize(
    ("form", "settings", "expected"),
    [
        ("pth", {"heads": 4}, {"pool": "cls", "head_dim": 64, "tokenizer": "normed", "norm_eps": 1e-5}),
        ("safetensors", {"heads": 2, "dim_head": 16}, {"heads": 2, "head_dim": 0}),
        ("pth", {"heads": 3, "dim_head": 8, "pool": "mean"}, {"pool": "mean", "head_dim": 8}),
        ("pth", {"heads": 1, "dim_head": 32}, {"heads": 1, "head_dim": 0}),  # no to_out
        ("pth", {"heads": 1, "dim_head": 8, "channels": 1, "patch_size": 2}, {"channels": 1, "patch_size": 2}),
        ("safetensors", {"heads": 2, "image_size": (8, 24)}, {"image_size": (8, 24), "patch_size": 4}),
    ],
)
def test_vit_answers_the_same(form: str, settings: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    model = drawn(vit_pytorch.ViT(**{**SMALL, **settings}))
    heads = None if settings.get("dim_head") == SMALL["dim"] else settings["heads"]
    content = agree(model, saved(model, tmp_path, form), Hints(heads=heads, image_size=settings.get("image_size")))
    assert {name: getattr(content.config, name) for name in expected} == expected
    assert (content.origin["family"], content.origin["numbers"]) == ("vit-pytorch", "fp32")
    assert [note[:21] for note in content.origin["notes"]] == ["images of one channel"] * (content.config.channels == 1)


@pytest.mark.parametrize("settings", [{"heads": 2}, {"heads": 3, "dim_head": 8, "image_size": (8, 24), "channels": 1}])
def test_simple_vit_answers_the_same(settings: dict[str, Any], tmp_path: Path) -> None:
    model = drawn(vit_pytorch.SimpleViT(**{**SMALL, **settings}))
    hints = Hints(heads=settings["heads"], image_size=settings.get("image_size", (16, 16)))
    config = agree(model, saved(model, tmp_path), hints).config
    assert (config.pool, config.prefix_tokens, config.norm_at) == ("mean", 0, "tokens")


class Attend(nn.Module):
    def __init__(self, dim: int, heads: int, width: int, divisor: int):
        super().__init__()
        self.heads, self.divisor = heads, divisor
        self.to_qkv = nn.Linear(dim, 3 * heads * width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * width, dim), nn.Dropout())

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (self.heads, -1)) for part in self.to_qkv(x).chunk(3, -1))
        weights = (torch.einsum("bihk,bjhk->bhij", q, k) / math.sqrt(self.divisor)).softmax(-1)
        return self.to_out(torch.einsum("bhij,bjhk->bihk", weights, v).flatten(2))


class Around(nn.Module):
    """A function with a norm before it, or with a residual connection over it."""

    def __init__(self, fn: nn.Module, dim: int = 0):
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(dim) if dim else None, fn

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(x) if self.norm is None else self.fn(self.norm(x))


class Older(nn.Module):
    """The layouts of 2020 to 2022, by `age`: years before the one in which norms moved into the blocks."""

    def __init__(self, *, age: int, heads: int, width: int, cls: bool = True):
        super().__init__()
        self.age, dim, patch, values = age, 32, 4, 48
        self.pos_embedding = nn.Parameter(torch.zeros(1, 16 + cls, dim))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if cls else None
        cut = nn.Unfold(patch, stride=patch)  # values of a patch as (channel, row, column)
        self.cut = lambda x: cut(x).transpose(1, 2).unflatten(2, (3, -1)).transpose(2, 3).flatten(2)
        if age == 2:
            self.patch_to_embedding = nn.Linear(values, dim)
        else:
            self.to_patch_embedding = nn.Sequential(nn.Identity(), nn.Linear(values, dim))
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList()
        for _ in range(2):
            attention = Around(Attend(dim, heads, width, dim if age == 2 else width), dim)
            mlp = nn.Module()
            mlp.net = nn.Sequential(nn.Linear(dim, 40), nn.GELU(), nn.Dropout(), nn.Linear(40, dim), nn.Dropout())
            mlp.forward = mlp.net.forward
            pair = [attention, Around(mlp, dim)]
            self.transformer.layers.append(nn.ModuleList(map(Around, pair) if age else pair))
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 5))

    def forward(self, images: Tensor) -> Tensor:
        x = self.cut(images)
        x = self.patch_to_embedding(x) if self.age == 2 else self.to_patch_embedding(x)
        x = x if self.cls_token is None else torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = x + self.pos_embedding
        for attention, mlp in self.transformer.layers:
            x = attention(x) if self.age else x + attention(x)
            x = mlp(x) if self.age else x + mlp(x)
        return self.mlp_head(x.mean(1) if self.cls_token is None else x[:, 0])


@pytest.mark.parametrize(
    ("age", "heads", "width", "cls", "norm_at", "notes"),
    [
        (0, 4, 8, True, "tokens", ["class token"]),
        (0, 2, 24, False, "pooled", []),
        (1, 3, 16, True, "tokens", ["class token"]),
        (2, 4, 16, True, "tokens", ["0.6.6", "class token"]),
    ],
)
def test_older_layouts_answer_the_same(
    age: int, heads: int, width: int, cls: bool, norm_at: str, notes: list[str], tmp_path: Path
) -> None:
    model = drawn(Older(age=age, heads=heads, width=width, cls=cls))
    content = agree(model, saved(model, tmp_path), Hints(heads=heads))
    assert (content.config.tokenizer, content.config.norm_at, content.config.mlp_dim) == ("linear", norm_at, 40)
    assert all(part in note for part, note in zip(notes, content.origin["notes"], strict=True))


class Jeonsworld(nn.Module):
    def __init__(self, *, dim: int, depth: int, heads: int, channels: int = 3):
        super().__init__()
        self.heads = heads
        self.transformer = nn.ModuleDict({"embeddings": nn.Module(), "encoder": nn.Module()})
        inputs, encoder = self.transformer.values()
        inputs.patch_embeddings = nn.Conv2d(channels, dim, 4, 4)
        inputs.position_embeddings = nn.Parameter(torch.zeros(1, 17, dim))
        inputs.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        encoder.layer, encoder.encoder_norm = nn.ModuleList(), nn.LayerNorm(dim, eps=1e-6)
        for _ in range(depth):
            norms = {name: nn.LayerNorm(dim, eps=1e-6) for name in ("attention_norm", "ffn_norm")}
            attention = nn.ModuleDict({name: nn.Linear(dim, dim) for name in ("query", "key", "value", "out")})
            ffn = nn.ModuleDict({"fc1": nn.Linear(dim, 40), "fc2": nn.Linear(40, dim)})
            encoder.layer.append(nn.ModuleDict({**norms, "attn": attention, "ffn": ffn}))
        self.head = nn.Linear(dim, 5)

    def forward(self, images: Tensor) -> Tensor:
        inputs, encoder = self.transformer.values()
        x = inputs.patch_embeddings(images).flatten(2).transpose(1, 2)
        x = torch.cat([inputs.cls_token.expand(len(x), -1, -1), x], 1) + inputs.position_embeddings
        for layer in encoder.layer:
            normed, parts = layer["attention_norm"](x), layer["attn"]
            q, k, v = (parts[name](normed).unflatten(2, (self.heads, -1)) for name in ("query", "key", "value"))
            weights = (torch.einsum("bihk,bjhk->bhij", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
            x = x + parts["out"](torch.einsum("bhij,bjhk->bihk", weights, v).flatten(2))
            x = x + layer["ffn"]["fc2"](F.gelu(layer["ffn"]["fc1"](layer["ffn_norm"](x))))
        return self.head(encoder.encoder_norm(x)[:, 0])


@pytest.mark.parametrize(
    ("hinted", "settings"),
    [
        (4, {"dim": 32, "depth": 3, "heads": 4}),
        (2, {"dim": 48, "depth": 1, "heads": 2, "channels": 1}),
        (None, {"dim": 192, "depth": 12, "heads": 3}),  # as every published ViT of that width and depth
    ],
)
def test_jeonsworld_answers_the_same(hinted: int | None, settings: dict[str, int], tmp_path: Path) -> None:
    model = drawn(Jeonsworld(**settings))
    content = agree(model, saved(model, tmp_path), Hints(heads=hinted))
    assert (content.config.heads, content.config.norm_eps) == (settings["heads"], 1e-6)
    assert (content.origin["family"], len(content.origin["notes"])) == ("ViT-pytorch", int(hinted is None))


def test_wrapped_weights_are_the_same_and_a_headless_model_knows_no_classes(tmp_path: Path) -> None:
    model = drawn(vit_pytorch.ViT(**SMALL, heads=2))
    plain = checkpoint.load(saved(model, tmp_path), Hints(heads=2)).state
    wrapped = tmp_path / "wrapped.pth"
    torch.save({"epoch": 3, "model": {f"module.{name}": value for name, value in model.state_dict().items()}}, wrapped)
    again = checkpoint.load(wrapped, Hints(heads=2)).state
    assert plain.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in plain.items())

    headless = saved(vit_pytorch.ViT(**{**SMALL, "num_classes": 0}, heads=2), tmp_path)
    assert checkpoint.load(headless, Hints(heads=2)).pretrained


vit, simple = (partial(kind, **{**SMALL, "heads": 2}) for kind in (vit_pytorch.ViT, vit_pytorch.SimpleViT))
older, other = partial(Older, age=2, heads=2, width=16), partial(Jeonsworld, dim=32, depth=1, heads=2)
BLOCK, HYBRID = "transformer.layers.1.0.", "transformer.embeddings.hybrid_model.root.conv.weight"
POSITIONS, TWO = "transformer.embeddings.position_embeddings", Hints(heads=2)


@pytest.mark.parametrize(
    ("model", "change", "hints", "told"),
    [
        (vit, {}, Hints(), "128 values, 2 if its dim_head was left at 64); say it with --heads"),
        (partial(vit, dim_head=12), {}, Hints(), "(queries of 24 values); say it with --heads"),
        (vit, {}, Hints(heads=3), "--heads 3 does not divide the queries"),
        (partial(vit, heads=1, dim_head=32), {}, TWO, "has no to_out; leave out --heads 2"),
        (vit, {"gate": torch.ones(1)}, TWO, "it also holds gate"),
        (vit, {f"{BLOCK}norm.weight": None}, TWO, f"it lacks {BLOCK}norm.weight"),
        (vit, {f"{BLOCK}to_qkv.weight": torch.ones(9, 32)}, TWO, "is 9 x 32"),
        (vit, {"cls_token": torch.ones(32)}, TWO, "no tokens of width 32"),
        (partial(vit, patch_size=(2, 8), channels=2), {}, TWO, "32 values, which make no square"),
        (vit, {}, Hints(heads=2, image_size=(8, 16)), "does not make the 16 patches"),
        (older, {"mlp_head.4.weight": torch.ones(5, 5)}, TWO, "hidden layer in its mlp_head"),
        (simple, {}, TWO, "say it with --image-size"),
        (simple, {}, Hints(heads=2, image_size=(16, 18)), "not divisible by the patches"),
        (other, {}, Hints(), "say it with --heads"),
        (other, {}, Hints(heads=5), "--heads 5 does not divide"),
        (other, {"head.weight": None}, TWO, "it lacks head.weight"),
        (other, {HYBRID: torch.ones(1)}, TWO, "it also holds transformer.embeddings.hybrid_model"),
        (other, {POSITIONS: torch.ones(1, 1, 32)}, TWO, "positions for 0 patches"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(
    model: Callable[[], nn.Module], change: dict[str, Tensor | None], hints: Hints, told: str, tmp_path: Path
) -> None:
    state = {**model().state_dict(), **change}
    torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "weights.pth")
    with pytest.raises(InputError) as refused:
        checkpoint.load(tmp_path / "weights.pth", hints)
    assert told in str(refused.value)
    assert "weights.pth" in str(refused.value)
