"""RandAugment (Cubuk et al., arXiv 1909.13719) of a whole batch, each image with operations of its own.

The operations and their ranges are those of timm's `rand-m9-mstd0.5-inc1`, in which every one grows with the magnitude;
the arithmetic of each is that of torchvision, which the tests compare with.

Legend: b images that got the same operation, C channels; all images are uint8 (b, C, height, width).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.augment import Dice, warp

Operation = Callable[[Tensor, Tensor], Tensor]  # images, strength (b,) of either sign, magnitude/10


def randaugment(images: Tensor, count: int, magnitude: float, dice: Dice) -> Tensor:
    """Applies `count` random operations to each image, each with probability one half."""
    for _ in range(count):
        chosen = dice.below(len(OPERATIONS))
        strength = ((magnitude + 0.5 * dice.normal()) / 10).clamp(0, 1)
        strength = torch.where(dice.uniform() < 0.5, strength, -strength)
        chosen[dice.uniform() < 0.5] = -1
        images = images.clone()
        for index, operation in enumerate(OPERATIONS.values()):
            rows = (chosen == index).nonzero().flatten()
            if len(rows):
                where, how = (each.to(images.device, non_blocking=True) for each in (rows, strength[rows]))
                images[where] = operation(images[where], how)
    return images


def _affine(images: Tensor, xx: Tensor, xy: Tensor, x: Tensor, yx: Tensor, yy: Tensor, y: Tensor) -> Tensor:
    theta = torch.stack([torch.stack([xx, xy, x], -1), torch.stack([yx, yy, y], -1)], 1)
    return warp(images, theta)


def rotate(images: Tensor, strength: Tensor) -> Tensor:
    """By up to 30 degrees."""
    angle, zero = strength * (math.pi / 6), torch.zeros_like(strength)
    ratio = images.shape[-1] / images.shape[-2]
    return _affine(images, angle.cos(), -angle.sin() / ratio, zero, angle.sin() * ratio, angle.cos(), zero)


def shear_x(images: Tensor, strength: Tensor) -> Tensor:
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _affine(images, one, 0.3 * strength * images.shape[-2] / images.shape[-1], zero, zero, one, zero)


def shear_y(images: Tensor, strength: Tensor) -> Tensor:
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _affine(images, one, zero, zero, 0.3 * strength * images.shape[-1] / images.shape[-2], one, zero)


def translate_x(images: Tensor, strength: Tensor) -> Tensor:
    """By up to 45 % of the width."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _affine(images, one, zero, 0.9 * strength, zero, one, zero)


def translate_y(images: Tensor, strength: Tensor) -> Tensor:
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _affine(images, one, zero, zero, zero, one, 0.9 * strength)


def _blend(images: Tensor, other: Tensor, strength: Tensor) -> Tensor:
    """`other` + (1 + 0.9 strength) * (images - other): more or less of what distinguishes an image from `other`."""
    factor = (1 + 0.9 * strength)[:, None, None, None]
    return torch.lerp(other, images.float(), factor).clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images.float()
    weights = torch.tensor([0.299, 0.587, 0.114]).to(images.device, non_blocking=True)
    return (images.float() * weights[None, :, None, None]).sum(1, keepdim=True)


def brightness(images: Tensor, strength: Tensor) -> Tensor:
    return _blend(images, torch.zeros_like(images, dtype=torch.float32), strength)


def color(images: Tensor, strength: Tensor) -> Tensor:
    return _blend(images, _grey(images).floor(), strength)


def contrast(images: Tensor, strength: Tensor) -> Tensor:
    return _blend(images, _grey(images).floor().mean((1, 2, 3), keepdim=True), strength)


def sharpness(images: Tensor, strength: Tensor) -> Tensor:
    """Against a 3x3 blur; the border stays."""
    if min(images.shape[-2:]) <= 2:
        return images
    channels = images.shape[1]
    kernel = torch.ones(3, 3, device=images.device)
    kernel[1, 1] = 5
    blurred = images.float()
    inner = F.conv2d(blurred, (kernel / 13).expand(channels, 1, 3, 3), groups=channels).round()
    blurred = blurred.clone()
    blurred[..., 1:-1, 1:-1] = inner
    return _blend(images, blurred, strength)


def posterize(images: Tensor, strength: Tensor) -> Tensor:
    """Keeps 8 down to 4 bits of each pixel, as torchvision; timm's way would leave 1 bit at magnitude 9."""
    dropped = (strength.abs() * 4).long().clamp(max=7)[:, None, None, None]
    return ((images.long() >> dropped) << dropped).to(torch.uint8)


def solarize(images: Tensor, strength: Tensor) -> Tensor:
    """Inverts what is brighter than a threshold that falls from 256 to 0."""
    threshold = (256 - (strength.abs() * 256).long())[:, None, None, None]
    return torch.where(images.long() >= threshold, 255 - images, images)


def solarize_add(images: Tensor, strength: Tensor) -> Tensor:
    """Adds up to 110 to what is darker than 128."""
    added = (images.long() + (strength.abs() * 110).long()[:, None, None, None]).clamp(max=255).to(torch.uint8)
    return torch.where(images < 128, added, images)


def invert(images: Tensor, strength: Tensor) -> Tensor:
    return 255 - images


def autocontrast(images: Tensor, strength: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional  # slow to import, and few trainings need it

    return functional.autocontrast(images)


def equalize(images: Tensor, strength: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional  # slow to import, and few trainings need it

    return functional.equalize(images)


OPERATIONS: dict[str, Operation] = {
    operation.__name__: operation
    for operation in (
        autocontrast,
        equalize,
        invert,
        rotate,
        posterize,
        solarize,
        solarize_add,
        color,
        contrast,
        brightness,
        sharpness,
        shear_x,
        shear_y,
        translate_x,
        translate_y,
    )
}
