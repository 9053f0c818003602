"""Augmentation of whole batches: against torchvision's, one image at a time, and by what has to hold."""

import math

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as V

from baselines.augment import Dice, mix, random_crop, random_erasing, random_flip, random_resized_crop
from baselines.randaugment import OPERATIONS, randaugment
from baselines.recipe import TrainConfig

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (6, 3, 20, 28), dtype=torch.uint8, generator=GENERATOR)
STRENGTH = torch.tensor([0.9, -0.9, 0.5, -0.3, 0.05, -1.0])


def dice(images: int, mine: slice = slice(None), seed: int = 0) -> Dice:
    return Dice(torch.Generator().manual_seed(seed), images, mine)


def moved(image: torch.Tensor, x: float = 0, y: float = 0) -> torch.Tensor:
    """By whole pixels, which is all that torchvision knows."""
    return V.affine(image, 0.0, [round(x), round(y)], 1.0, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR)


REFERENCE = {
    "autocontrast": lambda image, _: V.autocontrast(image),
    "equalize": lambda image, _: V.equalize(image),
    "invert": lambda image, _: V.invert(image),
    "rotate": lambda image, s: V.rotate(image, 30 * s, InterpolationMode.BILINEAR),
    "posterize": lambda image, s: V.posterize(image, 8 - int(abs(s) * 4)),
    "solarize": lambda image, s: V.solarize(image, 256 - int(abs(s) * 256)),
    "color": lambda image, s: V.adjust_saturation(image, 1 + 0.9 * s),
    "contrast": lambda image, s: V.adjust_contrast(image, 1 + 0.9 * s),
    "brightness": lambda image, s: V.adjust_brightness(image, 1 + 0.9 * s),
    "sharpness": lambda image, s: V.adjust_sharpness(image, 1 + 0.9 * s),
    "translate_x": lambda image, s: moved(image, x=-0.45 * s * 28),
    "translate_y": lambda image, s: moved(image, y=-0.45 * s * 20),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_an_operation_does_to_each_image_what_torchvision_does(name: str) -> None:
    pixels = 0.45 * {"translate_x": 28, "translate_y": 20}.get(name, 1e6)
    strengths = (STRENGTH * pixels).round() / pixels
    got = OPERATIONS[name](IMAGES, strengths)
    for image, result, strength in zip(IMAGES, got, strengths.tolist(), strict=True):
        off = (REFERENCE[name](image, strength).int() - result.int()).abs()
        assert off.max() <= 1 or (off > 1).float().mean() < 0.01, (strength, off.max())


@pytest.mark.parametrize("axis", ["x", "y"])
def test_shear_moves_a_row_in_proportion_to_its_distance_from_the_middle(axis: str) -> None:
    ramp = torch.arange(21.0).expand(1, 1, 21, 21) * 10
    ramp = (ramp if axis == "x" else ramp.transpose(2, 3)).to(torch.uint8)
    sheared = OPERATIONS[f"shear_{axis}"](ramp, torch.tensor([0.5])).float()
    lines = sheared[0, 0] if axis == "x" else sheared[0, 0].T
    moved = lines[:, 10] - 100
    torch.testing.assert_close(moved, (torch.arange(21.0) - 10) * 0.15 * 10, atol=0.6, rtol=0)


def test_solarize_add_brightens_the_dark_half_only() -> None:
    got = OPERATIONS["solarize_add"](IMAGES, torch.full((6,), 0.5))
    dark = IMAGES < 128
    assert torch.equal(got[~dark], IMAGES[~dark])
    assert torch.equal(got[dark].int(), IMAGES[dark].int() + 55)


def test_every_operation_leaves_shape_and_type_and_none_is_missing() -> None:
    assert set(OPERATIONS) == set(REFERENCE) | {"shear_x", "shear_y", "solarize_add"}
    for channels in (1, 3):
        images = IMAGES[:, :channels]
        for name, operation in OPERATIONS.items():
            got = operation(images, STRENGTH)
            assert (got.shape, got.dtype) == (images.shape, torch.uint8), name


def test_randaugment_touches_three_images_in_four_at_two_operations() -> None:
    images = torch.randint(0, 256, (400, 1, 12, 12), dtype=torch.uint8, generator=GENERATOR)
    changed = (randaugment(images, 2, 9.0, dice(400)) != images).flatten(1).any(1).float().mean().item()
    assert 0.6 < changed < 0.8  # 1 - 1/4, less what an operation leaves as it was


def test_parts_of_a_batch_are_augmented_as_the_whole_is() -> None:
    """What lets several processes share one batch."""
    config = TrainConfig(mixup=0.8, cutmix=1.0)
    images = IMAGES.repeat(4, 1, 1, 1)[:16, :, :20, :20]

    def all_of_it(part: slice) -> torch.Tensor:
        rolls = dice(16, part)
        found = random_crop(images[part], 3, rolls)
        found = random_resized_crop(found, 0.4, rolls)
        found = randaugment(random_flip(found, rolls), 2, 9.0, rolls).float()
        found, _, share = mix(found, config, rolls)
        return random_erasing(found, 0.5, rolls) + share[:, None, None, None]

    parts = torch.cat([all_of_it(slice(0, 6)), all_of_it(slice(6, 12)), all_of_it(slice(12, 16))])
    torch.testing.assert_close(parts, all_of_it(slice(0, 16)), atol=1, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_mixed_images_hold_the_shares_they_claim(seed: int) -> None:
    values = torch.arange(1.0, 8.0)[:, None, None, None].expand(7, 1, 10, 10)
    for config in (TrainConfig(mixup=0.8), TrainConfig(cutmix=1.0), TrainConfig(mixup=0.8, cutmix=1.0)):
        mixed, partner, share = mix(values, config, dice(7, seed=seed))
        assert partner.tolist() == [1, 0, 3, 2, 5, 4, 6]
        own = torch.arange(1.0, 8.0)
        torch.testing.assert_close(mixed.mean((1, 2, 3)), share * own + (1 - share) * own[partner])


def test_random_erasing_fills_a_rectangle_of_the_size_it_should() -> None:
    images = torch.full((300, 1, 30, 30), 7.0)
    erased = random_erasing(images, 0.25, dice(300)) != 7
    hit = erased.flatten(1).any(1)
    assert 0.15 < hit.float().mean() < 0.35
    for mask in erased[hit][:, 0]:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        tall, wide = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert mask.sum() == tall * wide
        assert 0.01 < tall * wide / 900 < 0.36


def test_a_resized_crop_stays_inside_the_image() -> None:
    ramp = (torch.arange(40.0)[:, None] + torch.arange(40.0)).mul(3).to(torch.uint8).expand(50, 1, 40, 40)
    cropped = random_resized_crop(ramp, 0.3, dice(50)).float()
    assert cropped.min() >= 0
    spans = (cropped[:, 0, -1, -1] - cropped[:, 0, 0, 0]) / (78 * 3)  # of the two sides, on average
    assert spans.min() > math.sqrt(0.3) * 0.8
    assert spans.max() <= 1
    assert spans.std() > 0.05
