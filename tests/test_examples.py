"""What is shown of single images is what the model did with them."""

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from baselines.data import Data, TensorSplit
from baselines.output import EncoderOutput
from baselines.vit import Encoder, VisionTransformer, ViTConfig
from compress import variant
from compress.measure.examples import choose_images, describe_images
from compress.measure.rollout import trace
from compress.methods import METHODS, AViT, Int8, Method, Stage
from reports.pictures import captions, pictures
from reports.row import Row, RowError

DEPTH = 4
HALTING = AViT(gate_scale=6.0, gate_shift=-2.0)  # some tokens of every image, before the last block
ALL_HALTING = AViT(gate_scale=6.0, gate_shift=-2.0, cls_halts=True)
AT_ONCE = AViT(gate_scale=0.0, gate_shift=50.0, cls_halts=True)


def images_of(channels: int = 1, side: tuple[int, int] = (16, 8), n: int = 8) -> Data:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, channels, *side), generator=generator, dtype=torch.uint8)
    split = TensorSplit(pixels, torch.arange(n) % 5)
    mean, std = (0.47, 0.31, 0.11)[:channels], (0.29, 0.013, 0.2)[:channels]
    return Data("noise", tuple("abcde"), split, split, mean, std)


def model_of(pool: str = "cls", *methods: Method, depth: int = DEPTH, **geometry: Any) -> VisionTransformer:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"image_size": (16, 8), "channels": 1, "patch_size": 2, "dim": 32, "heads": 2}
    shape |= {"mlp_dim": 64, "depth": depth, "classes": 5, "pool": pool} | geometry
    return variant.prepare(VisionTransformer(ViTConfig(**shape)).eval(), methods).eval()


def normalised(data: Data) -> Tensor:
    return next(data.batches(data.test, len(data.test.labels), torch.device("cpu")))[0]


def decoded(example: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(example["png"])))


class EveryOther(Encoder):
    """Drops every other patch of (B, N, D) before the second block, and says so unless `silent`."""

    def __init__(self, model: VisionTransformer, silent: bool = False):
        super().__init__(model.encoder.blocks)
        self.prefix, self.silent = model.config.prefix_tokens, silent

    def forward(self, x_BND: Tensor) -> EncoderOutput:
        kept = torch.tensor([*range(self.prefix), *range(self.prefix, x_BND.shape[1], 2)])
        for index, block in enumerate(self.blocks):
            if index == 1:
                x_BND = x_BND[:, kept]
                if self.watch is not None and not self.silent:
                    self.watch(kept)
            x_BND = block(x_BND)
        return EncoderOutput(x_BND)


def by_hand(model: VisionTransformer, image: Tensor, kept: list[list[int]]) -> Tensor:
    """Rollout as the paper writes it: (N, N) matrices, multiplied out. `kept`: tokens of each block."""
    tokens = model.config.tokens
    x, product = model.embed(image)[0], torch.eye(tokens)
    rows = list(range(tokens))
    for block, stay in zip(model.encoder.blocks, kept, strict=True):
        x = x[[rows.index(token) for token in stay]]
        rows = stay
        weight, bias = block.attn.qkv.weight, block.attn.qkv.bias
        width = x.shape[1] // block.attn.heads
        attention = torch.zeros(len(rows), len(rows))
        for head in range(block.attn.heads):
            part = slice(head * width, (head + 1) * width)
            q, k = (block.norm1(x) @ weight.chunk(3)[i][part].T + bias.chunk(3)[i][part] for i in (0, 1))
            scores = (q @ k.T / width**0.5).exp()
            attention += scores / scores.sum(1, keepdim=True) / block.attn.heads
        mixing = torch.eye(tokens)
        for row, weights in zip(rows, attention, strict=True):
            mixing[row, row] = 0.5
            mixing[row, rows] += 0.5 * weights
        product = mixing @ product
        x = block(x[None])[0]
    return product[0] if model.config.pool == "cls" else product[rows].mean(0)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("drops", [False, True])
@torch.no_grad()
def test_rollout_is_the_product_of_the_paper(pool: str, drops: bool) -> None:
    model = model_of(pool, depth=2)
    for parameter in model.encoder.parameters():
        parameter.copy_(parameter + 0.3 * torch.randn_like(parameter))  # attention far from uniform
    first, prefix = list(range(model.config.tokens)), model.config.prefix_tokens
    second = [*first[:prefix], *first[prefix::2]] if drops else first
    for image in normalised(images_of(n=3)):
        expected = by_hand(model, image[None], [first, second])
        model.encoder = EveryOther(model) if drops else model.encoder
        seen = trace(model, image[None])
        torch.testing.assert_close(seen.rollout_N.float(), expected, atol=1e-6, rtol=1e-5)
        assert seen.rollout_N.max() > 1.5 * seen.rollout_N.median()
        assert seen.blocks_N.tolist() == [1 + (token in second) for token in first]


@torch.no_grad()
def test_uniform_attention_rolls_out_in_closed_form() -> None:
    model = model_of()
    for block in model.encoder.blocks:
        torch.nn.init.zeros_(block.get_submodule("attn.qkv").weight)
    tokens, rollout_N = model.config.tokens, trace(model, normalised(images_of())[:1]).rollout_N
    patch = (1 - 0.5**DEPTH) / tokens  # what a block does not leave in place it spreads over all tokens
    assert rollout_N.tolist() == pytest.approx([patch + 0.5**DEPTH, *[patch] * (tokens - 1)], abs=1e-9)
    assert describe_images(model, images_of(), [0])[0]["rollout"] == [1.0] * (tokens - 1)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize(
    "methods", [[HALTING], [HALTING, Int8()], [ALL_HALTING], [AT_ONCE], *([kind()] for kind in METHODS.values())]
)
@torch.no_grad()
def test_blocks_and_answers_are_those_of_the_ordinary_pass(pool: str, methods: list[Method]) -> None:
    model, data = model_of(pool, *methods), images_of()
    images = normalised(data)
    if methods[-1].stage == Stage.NUMERICS:
        methods[-1].calibrate(model, [images])
    ordinary = [model.compute_output(image[None]) for image in images]
    traces = [trace(model, image[None]) for image in images]
    dense = len(model.encoder.blocks) * model.config.tokens
    for seen, output in zip(traces, ordinary, strict=True):
        assert torch.equal(seen.logits, output.logits[0])
        ran = output.encoder.counts
        assert int(seen.blocks_N.sum()) == (dense if ran is None else int(ran.sum()))
        assert seen.rollout_N.sum().item() == pytest.approx(1)
        assert (seen.rollout_N > 0).all()
    for it, index, seen in zip(describe_images(model, data, [6, 1]), (6, 1), (traces[6], traces[1]), strict=True):
        assert (it["index"], it["label"]) == (index, 1)
        assert it["predicted"] == int(seen.logits.argmax())
        assert it["confidence"] == round(seen.logits.softmax(0).max().item(), 4)
        assert it["blocks"] == seen.blocks_N[model.config.prefix_tokens :].tolist()
        assert (max(it["rollout"]), len(it["rollout"]), it["grid"]) == (1, 32, [8, 4])
    assert model.encoder.watch is None  # the model is as it was


def test_where_nothing_halts_every_patch_runs_in_all_blocks() -> None:
    for model in (model_of(), model_of("cls", AViT(**AViT.identity))):
        assert describe_images(model, images_of(), [3])[0]["blocks"] == [DEPTH] * 32


def test_an_encoder_that_drops_tokens_silently_is_caught() -> None:
    model = model_of()
    model.encoder = EveryOther(model, silent=True)
    with pytest.raises(AssertionError, match="EveryOther dropped tokens without a word"):
        trace(model, normalised(images_of())[:1])
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_in_rows_are_the_original_pixels(channels: int) -> None:
    data = images_of(channels)
    for example in describe_images(model_of(channels=channels), data, list(range(8))):
        pixels = np.array(decoded(example)).reshape(16, 8, channels).transpose(2, 0, 1)
        assert (pixels == data.test.images[example["index"]].numpy()).all()


def test_large_pictures_shrink_to_96_pixels_a_side() -> None:
    data = images_of(3, (224, 112), n=1)
    (example,) = describe_images(model_of(channels=3, image_size=(224, 112), patch_size=56), data, [0])
    assert decoded(example).size == (48, 96)


def test_half_of_the_images_chosen_are_wrong_and_all_classes_appear() -> None:
    labels = np.arange(400) % 10
    predicted = np.where(np.arange(400) < 350, labels, (labels + 1) % 10)
    chosen = choose_images(labels, predicted, 20)
    assert [sorted(labels[part].tolist()) for part in (chosen[:10], chosen[10:])] == [list(range(10))] * 2
    assert (predicted[chosen[:10]] == labels[chosen[:10]]).all()
    assert (predicted[chosen[10:]] != labels[chosen[10:]]).all()
    assert set(labels[choose_images(labels, predicted, 16)]) == set(range(10))  # what one half leaves out the other has
    few = choose_images(labels, np.where(np.arange(400) == 7, 0, labels), 16)  # one mistake
    assert (len(set(few)), few[-1], len(set(labels[few[:15]]))) == (16, 7, 10)
    assert sorted(choose_images(labels, (labels + 1) % 10, 16)) == list(range(16))  # no right one
    assert choose_images(labels[:3], labels[:3], 16) == [0, 1, 2]  # fewer images than asked for
    many = np.arange(500) % 100
    assert len({many[i] // 13 for i in choose_images(many, many, 8)}) > 6  # of many classes, not only the first ones


def rows_with_examples(**changes: Any) -> list[Row]:
    data = images_of()
    bare: dict[str, Any] = {"runtime": "torch", "device": "cpu", "device_name": "", "batch_size": 1, "threads": 1}
    bare |= {"dataset": "noise", "seed": 0, "classes": list(data.classes)} | changes
    methods = {"vit": [], "avit": [HALTING], "avit_int8": [HALTING, Int8()], "int8": [Int8()]}
    rows = []
    for name, applied in methods.items():
        model, described = model_of("cls", *applied), [{"name": method.name} for method in applied]
        rows.append(Row(variant=name, methods=described, examples=describe_images(model, data, list(range(8))), **bare))
        rows.append(Row(variant=name, methods=described, **bare))  # another batch size: no examples
    return rows


def test_pictures_are_planned_by_what_the_rows_hold() -> None:
    files = pictures(rows := rows_with_examples())
    assert sorted(files) == sorted(
        [f"predictions_{name}.png" for name in ("vit", "avit", "avit_int8", "int8")]
        + ["halting_avit.png", "halting_avit_int8.png", "rollout_vit.png", "rollout_avit.png"]
    )
    assert [name for name, _ in captions(rows)] == list(files)
    assert pictures(rows) == files
    assert pictures([row for row in rows if not row.examples]) == {}
    assert captions([]) == []


def test_stopped_patches_are_veiled_and_the_others_are_their_own_pixels() -> None:
    row = next(row for row in rows_with_examples() if row.variant == "avit")
    sheet = np.array(Image.open(io.BytesIO(pictures([row])["halting_avit.png"])).convert("RGB")).astype(int)
    assert row.examples is not None
    original = np.array(decoded(row.examples[0]))
    blocks = np.array(row.examples[0]["blocks"]).reshape(8, 4)
    top, left, factor, width = 90, 170, 8, 64 + 12  # of the first image; of the next column
    for column, block in enumerate([None, 2, 3, 4]):
        cell = sheet[top : top + 128 : factor, left + column * width : left + column * width + 64 : factor]
        assert cell.shape == (16, 8, 3)
        stopped = np.zeros((16, 8), bool) if block is None else (blocks < block).repeat(2, 0).repeat(2, 1)
        assert (cell[~stopped] == original[~stopped][:, None]).all()
        assert (cell[stopped][:, 2] > cell[stopped][:, 0] + 50).all()
    assert 0 < (blocks < 4).sum() < 32


def test_hostile_names_reach_neither_file_names_nor_markup() -> None:
    (row, *_) = rows_with_examples(classes=["$x_{$", "<script>|\n", "語" * 40, "", "w" * 300])
    twins = [Row(**vars(row) | {"variant": name}) for name in ("../<b>\n|", "../<b>\n!", "..", "$\\frac{$")]
    assert len(files := pictures(twins)) == 8
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.") for name in files)
    assert not any("\n" in sentence for _, sentence in captions(twins))


@pytest.mark.parametrize(
    "damage",
    [{"png": "AAAA"}, {"png": "%"}, {"blocks": [1]}, {"grid": "x"}, {"label": 99}, {"confidence": None}, {"depth": []}],
)
def test_damaged_examples_are_refused_in_one_sentence(damage: dict[str, Any]) -> None:
    (row, *_) = rows_with_examples()
    assert row.examples is not None
    with pytest.raises(RowError, match="the examples of vit cannot be read"):
        pictures([Row(**vars(row) | {"examples": [row.examples[0] | damage]})])
