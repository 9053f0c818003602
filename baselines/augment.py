"""Augmentation of a whole batch at once, on whatever device it lies.

Legend: B images, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shifts each image by up to `padding` pixels each way, zeros moving in. (B, C, height, width), any dtype."""
    if padding == 0:
        return images
    batch, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    shift = torch.randint(0, 2 * padding + 1, (2, batch), generator=generator).to(images.device)
    rows = (shift[0][:, None] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (shift[1][:, None] + torch.arange(width, device=images.device))[:, None, None, :]
    image = torch.arange(batch, device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[image, channel, rows, columns]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors each image left to right with probability one half. (B, C, height, width), any dtype."""
    flip = (torch.rand(images.shape[0], generator=generator) < 0.5).to(images.device)
    return torch.where(flip[:, None, None, None], images.flip(-1), images)
