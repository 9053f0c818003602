"""Augmentation of a whole batch at once, on whatever device it lies.

Each function takes images (B, C, height, width) and its random numbers from `Dice`, which are drawn on the CPU for the
whole batch of a step: the same images come out on any device, and on any number of processes that share the batch. They
are sent `non_blocking`, since nobody has to wait for a device that takes them when it gets there.

Legend: B images, C channels.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.recipe import TrainConfig


@dataclass(frozen=True)
class Dice:
    """Random numbers for the images of a step, of which this process holds the rows `mine`."""

    generator: torch.Generator
    total: int  # images of the step, over all processes
    mine: slice

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) in [0, 1), on the CPU."""
        return torch.rand(self.total, *shape, generator=self.generator)[self.mine]

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.total, *shape, generator=self.generator)[self.mine]

    def below(self, high: int, *shape: int) -> Tensor:
        """(B, *shape) integers from 0 to high - 1, on the CPU."""
        return torch.randint(0, high, (self.total, *shape), generator=self.generator)[self.mine]

    def beta(self, alpha: float) -> float:
        """One number for the whole step from Beta(alpha, alpha)."""
        seed = int(torch.randint(2**31, (), generator=self.generator))  # torch's Beta knows no generator
        return float(np.random.default_rng(seed).beta(alpha, alpha))


def random_crop(images: Tensor, padding: int, dice: Dice) -> Tensor:
    """Shifts each image by up to `padding` pixels each way, zeros moving in."""
    if padding == 0:
        return images
    batch, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    shift = dice.below(2 * padding + 1, 2).to(images.device, non_blocking=True)
    rows = (shift[:, :1] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (shift[:, 1:] + torch.arange(width, device=images.device))[:, None, None, :]
    image = torch.arange(batch, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[image, channel, rows, columns]


def random_resized_crop(images: Tensor, least: float, dice: Dice) -> Tensor:
    """Cuts a rectangle of `least` to all of the area, sides 3:4 to 4:3, and stretches it over the image."""
    area, ratio, place = dice.uniform() * (1 - least) + least, dice.uniform() * 2 - 1, dice.uniform(2) * 2 - 1
    aspect = (4 / 3) ** ratio
    size = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1)  # width, height
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = size[:, 0], size[:, 1]
    theta[:, :, 2] = place * (1 - size)
    return warp(images, theta, "reflection")


def warp(images: Tensor, theta: Tensor, outside: str = "zeros") -> Tensor:
    """Bilinear sampling at `theta` (B, 2, 3), from output to input places in [-1, 1], uint8 again."""
    theta = theta.to(images.device, non_blocking=True)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    sampled = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode=outside, align_corners=False)
    return sampled.round_().to(torch.uint8)


def random_flip(images: Tensor, dice: Dice) -> Tensor:
    """Mirrors each image left to right with probability one half."""
    flip = (dice.uniform() < 0.5).to(images.device, non_blocking=True)
    return torch.where(flip[:, None, None, None], images.flip(-1), images)


def random_erasing(images: Tensor, probability: float, dice: Dice) -> Tensor:
    """Fills 2 to 33 % of the area of some normalized images with noise (Zhong et al., arXiv 1708.04896)."""
    height, width = images.shape[-2:]
    happens = dice.uniform() < probability
    area = (dice.uniform() * 0.31 + 0.02) * height * width
    aspect = (10 / 3) ** (dice.uniform() * 2 - 1) * 0.999
    inside = rectangles((area * aspect).sqrt(), (area / aspect).sqrt(), dice.uniform(2), (height, width))
    noise = dice.normal(*images.shape[1:]).to(images.device, images.dtype, non_blocking=True)
    erased = (inside & happens[:, None, None])[:, None].to(images.device, non_blocking=True)
    return torch.where(erased, noise, images)


def rectangles(tall: Tensor, wide: Tensor, place: Tensor, size: tuple[int, int]) -> Tensor:
    """Rectangles of `tall` x `wide` pixels (B,), wholly inside images of `size`, as masks (B, height, width)."""
    sides = torch.stack([tall, wide], 1).round().clamp(min=1).minimum(torch.tensor(size, dtype=torch.float32))
    start = (place * (torch.tensor(size) - sides + 1)).floor()
    spans = []
    for axis, length in enumerate(size):
        pixel = torch.arange(length)
        spans.append((pixel >= start[:, axis, None]) & (pixel < (start + sides)[:, axis, None]))
    return spans[0][:, :, None] & spans[1][:, None, :]


def mix(images: Tensor, config: TrainConfig, dice: Dice) -> tuple[Tensor, Tensor, Tensor]:
    """Mixup (arXiv 1710.09412) or CutMix (arXiv 1905.04899) of normalized images.

    Neighbours of the shuffled batch are mixed with each other, so that no process needs the images of another.

    Returns:
        Images, the index (B,) of the one mixed in, and the share (B,) that the first kept.
    """
    batch, device = len(images), images.device
    partner = torch.arange(batch, device=device) ^ 1
    partner = torch.where(partner < batch, partner, torch.arange(batch, device=device))  # the last of an odd batch
    both = config.mixup > 0 and config.cutmix > 0
    coin = torch.rand((), generator=dice.generator).item() < 0.5
    if config.mixup > 0 and not (both and coin):
        share = dice.beta(config.mixup)
        kept = torch.full((batch,), share, device=device)
        return share * images + (1 - share) * images[partner], partner, kept
    height, width = images.shape[-2:]
    side = (1 - dice.beta(config.cutmix)) ** 0.5
    inside = rectangles(
        torch.full((batch,), side * height), torch.full((batch,), side * width), dice.uniform(2), (height, width)
    )
    kept = 1 - inside.float().mean((1, 2))
    inside, kept = (each.to(device, non_blocking=True) for each in (inside, kept))
    return torch.where(inside[:, None], images[partner], images), partner, kept
