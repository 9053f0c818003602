"""The picture of patches that leave shows, block by block, those that each token method sent away."""

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from baselines.data import Data, TensorSplit
from baselines.vit import VisionTransformer, ViTConfig
from compress import variant
from compress.measure.examples import describe_images
from compress.methods import METHODS, AViT, Method, Stage, TopK
from reports.pictures import examples_of, pictures, telling
from reports.row import Row

TOP, LEFT, FACTOR, ACROSS = 90, 170, 8, 128 + 12  # pixels: the first image, its enlargement, from column to column
TOKEN_METHODS = [kind for kind in METHODS.values() if kind.stage == Stage.TOKENS]


def row_of(method: Method, depth: int) -> Row:
    """Four noisy images of 16x16 pixels, in 4x4 patches, as a small model treats them."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (4, 1, 16, 16), dtype=torch.uint8)
    split = TensorSplit(pixels, torch.arange(4) % 2)
    data = Data("noise", ("a", "b"), split, split, (0.5,), (0.3,))
    shape: dict[str, Any] = {"image_size": 16, "channels": 1, "patch_size": 4, "dim": 32, "heads": 2, "mlp_dim": 64}
    model = variant.prepare(VisionTransformer(ViTConfig(**shape, depth=depth, classes=2)).eval(), [method]).eval()
    (images, _), *_ = data.batches(data.train, 4, torch.device("cpu"))
    method.calibrate(model, [images])
    given: dict[str, Any] = {"runtime": "torch", "device": "cpu", "device_name": "", "batch_size": 1, "threads": 1}
    examples = describe_images(model.eval(), data, list(range(4)))
    return Row(variant=method.name, methods=[{"name": method.name}], dataset="noise", seed=0, classes=["a", "b"],
               examples=examples, **given)  # fmt: skip


def columns(row: Row) -> list[list[np.ndarray]]:
    """The cells of the picture: for each image its columns, a pixel for each pixel of the image, (16, 16, 3)."""
    sheet = np.array(Image.open(io.BytesIO(pictures([row])[f"halting_{row.variant}.png"])).convert("RGB")).astype(int)
    down, across = 128 + 20 + 12, (sheet.shape[1] - LEFT) // ACROSS
    tops = [TOP + image * down for image in range(len(row.examples or []))]
    lefts = [LEFT + column * ACROSS for column in range(across)]
    return [[sheet[top : top + 128 : FACTOR, left : left + 128 : FACTOR] for left in lefts] for top in tops]


@pytest.mark.parametrize("depth", [4, 9])
@pytest.mark.parametrize("kind", TOKEN_METHODS, ids=lambda kind: kind.name)
def test_every_token_method_is_shown_block_by_block(kind: type[Method], depth: int) -> None:
    row = row_of(kind(), depth)
    shown = telling(examples_of(row))
    assert shown == sorted(set(shown))
    for example, (image, *cells) in zip(row.examples or [], columns(row), strict=True):
        original = np.array(Image.open(io.BytesIO(base64.b64decode(example["png"]))))[..., None].repeat(3, 2)
        assert (image == original).all()
        assert len(cells) == len(shown)
        ran = np.array(example["blocks"]).reshape(4, 4).repeat(4, 0).repeat(4, 1)
        for block, cell in zip(shown, cells, strict=True):
            assert (cell[ran >= block] == original[ran >= block]).all()
            assert (cell[ran < block][:, 2] > cell[ran < block][:, 0] + 50).all()  # blue
        assert 0 < (ran < shown[-1]).sum() < ran.size


def test_of_many_blocks_those_are_shown_in_which_patches_are_gone_for_the_first_time() -> None:
    row = row_of(TopK(keep=(0.5, 0.25), at=(2, 5)), 9)
    assert [sorted(example["blocks"]) for example in row.examples or []] == [[3] * 8 + [6] * 4 + [9] * 4] * 4
    assert telling(examples_of(row)) == [4, 7]
    shares = [[(cell == images[0]).all(2).mean() for cell in images[1:]] for images in columns(row)]
    assert shares == [[0.5, 0.25]] * 4
    assert telling(examples_of(row_of(TopK(keep=0.5, at=(2,)), 6))) == [2, 3, 4, 5, 6]  # of few blocks, all


def test_where_patches_leave_in_every_block_the_columns_are_spread_over_the_depth() -> None:
    row = row_of(AViT(target_macs=0.5), 12)
    values = np.array([example["blocks"] for example in row.examples or []])
    values[0, :12] = range(1, 13)
    for example, blocks in zip(row.examples or [], values.tolist(), strict=True):
        example["blocks"] = blocks
    assert telling(examples_of(row)) == [2, 4, 6, 8, 10, 12]
