"""Random views of images that are decoded when they are needed: cut from the original at its full size, and mirrored.

Whoever decodes an image cuts it, so that a crop of a tenth of a photo has the pixels of a tenth of that photo, and not
of one that was brought to the size of the model before. The random numbers are drawn for the whole batch, before
anybody knows the size of an image.

Legend: B images of a batch.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from baselines.augment import Dice
from baselines.recipe import TrainConfig
from baselines.resizing import Interpolation

TRIES = 10  # at a crop that lies within the image
NARROWEST, WIDEST = 3 / 4, 4 / 3  # ratio of width to height of a crop


@dataclass(frozen=True)
class View:
    """What is seen of one image."""

    tries: np.ndarray  # (TRIES, 4): share of the area, ratio of width to height, place from top and left in [0, 1)
    mirrored: bool  # left to right
    interpolation: Interpolation

    def apply(self, image: Image.Image, image_size: tuple[int, int]) -> Image.Image:
        """The view at `image_size` (height, width); the pixels are those of torchvision's `resized_crop`."""
        top, left, height, width = self.find_box(image.height, image.width)
        part = image.crop((left, top, left + width, top + height))
        part = part.resize((image_size[1], image_size[0]), Image.Resampling[self.interpolation.upper()])
        return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.mirrored else part

    def find_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of the crop of an image.

        Source: `RandomResizedCrop.get_params` of torchvision 0.29.
        """
        for share, ratio, down, right in self.tries.tolist():
            wide = round(math.sqrt(height * width * share * ratio))
            tall = round(math.sqrt(height * width * share / ratio))
            if 0 < wide <= width and 0 < tall <= height:
                return int(down * (height - tall + 1)), int(right * (width - wide + 1)), tall, wide
        wide, tall = min(width, round(height * WIDEST)), min(height, round(width / NARROWEST))
        return (height - tall) // 2, (width - wide) // 2, tall, wide


@dataclass(frozen=True)
class Views:
    """The views of a batch."""

    tries: np.ndarray  # (B, TRIES, 4)
    mirrored: np.ndarray  # (B,)

    def take(self, index: int, interpolation: Interpolation) -> View:
        return View(self.tries[index], bool(self.mirrored[index]), interpolation)


def draw_views(config: TrainConfig, dice: Dice) -> Views:
    """Crops of `crop_scale` to all of the area, sides 3:4 to 4:3; every second image mirrored where `flip` says so."""
    rolls: Any = dice.uniform(TRIES, 4).double().numpy()
    rolls[..., 0] = config.crop_scale + (1 - config.crop_scale) * rolls[..., 0]
    rolls[..., 1] = np.exp(math.log(NARROWEST) + math.log(WIDEST / NARROWEST) * rolls[..., 1])
    mirrored = dice.uniform().numpy() < 0.5 if config.flip else np.zeros(len(rolls), bool)
    return Views(rolls, mirrored)
