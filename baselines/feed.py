"""The images of a training in their order: sampled, shared out, augmented, normalized.

Order and augmentation follow from (seed, epoch, step) alone. So a training that was interrupted goes on in the middle
of an epoch, and several processes work on the very batches that one alone would have.

Legend: B images of this process, C channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.augment import Dice, mix, random_crop, random_erasing, random_flip, random_resized_crop
from baselines.data import Data
from baselines.distributed import World
from baselines.errors import InputError
from baselines.randaugment import randaugment
from baselines.recipe import TrainConfig
from baselines.views import draw_views


@dataclass(frozen=True)
class Batch:
    images: Tensor  # (B, C, height, width), normalized
    labels: Tensor  # (B,)
    others: Tensor  # (B,) labels of the images mixed in
    share: Tensor | None  # (B,) of each image's own label; None where nothing is mixed


class Feed:
    """Training batches of one data set.

    Args:
        indices: the training images that are used.

    Raises:
        InputError: the processes cannot take equal parts of a batch.
    """

    def __init__(self, data: Data, indices: Tensor, config: TrainConfig, device: torch.device, seed: int, world: World):
        self.data, self.indices, self.config, self.device, self.seed = data, indices, config, device, seed
        self.world = world
        self.batch_size = min(config.batch_size, len(indices))
        self.steps = max(len(indices) // config.batch_size, 1)  # of an epoch; what is left over waits for the next
        if world.size > 1 and self.batch_size % (2 * world.size):  # pairs are mixed with each other
            given = f"batch_size {config.batch_size}"
            given += f" (of which there are {len(indices)} images)" if self.batch_size < config.batch_size else ""
            raise InputError(
                f"{given} cannot be shared evenly by {world.size} processes; make it a multiple of {2 * world.size}"
            )
        self.views = data.train.decodes and config.crop_scale < 1  # cut out, and mirrored, by who decodes
        self.left = config.model_copy(update={"crop_scale": 1.0, "flip": False}) if self.views else config
        if data.normalized and config.randaugment:
            raise InputError(
                f"randaugment takes bytes, and the images of {data.name} are float; set randaugment = 0, or give uint8"
            )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step `start` on."""
        order = self._order(torch.Generator().manual_seed(seed_of(self.seed, epoch)))
        chunks = list(order.split(self.batch_size))[start : self.steps]
        mine = [chunk[self.world.part(len(chunk))] for chunk in chunks]
        moments = range(epoch * self.steps + start, epoch * self.steps + start + len(chunks))
        rolls = ((moment, len(chunk)) for moment, chunk in zip(moments, chunks, strict=True))
        views = (draw_views(self.config, self._dice(*each)) for each in rolls) if self.views else None
        fetched = self.data.train.fetch(mine, self.device, views)
        for moment, whole, chunk, images in zip(moments, chunks, mine, fetched, strict=True):
            dice = self._dice(moment, len(whole))
            if self.views:
                draw_views(self.config, dice)  # those that were seen: what is drawn next is independent of them
            images = self.data.normalize(augment(images, self.left, dice))
            labels = self.data.train.labels[chunk].to(self.device, non_blocking=True)
            others, share = labels, None
            if self.config.mixup or self.config.cutmix:
                images, partner, share = mix(images, self.config, dice)
                others = labels[partner]
            if self.config.erasing:
                images = random_erasing(images, self.config.erasing, dice)
            if self.config.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            yield Batch(images, labels, others, share)

    def _dice(self, moment: int, total: int) -> Dice:
        """Random numbers of a step, of which there are `total` images."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, moment))
        return Dice(generator, total, self.world.part(total))

    def _order(self, generator: torch.Generator) -> Tensor:
        """Indices of the images of an epoch, copies of one image far enough apart not to be mixed with each other."""
        if self.config.sampling == "balanced":
            labels = self.data.train.labels[self.indices]
            weights = 1 / labels.bincount()[labels].double()
            order = self.indices[torch.multinomial(weights, len(self.indices), True, generator=generator)]
        else:
            order = self.indices[torch.randperm(len(self.indices), generator=generator)]
        repeats = self.config.repeats
        if repeats == 1:
            return order
        chunks = order.split(max(self.batch_size // repeats, 1))[: self.steps]
        return torch.cat([chunk.repeat(-(-self.batch_size // len(chunk)))[: self.batch_size] for chunk in chunks])


def augment(images: Tensor, config: TrainConfig, dice: Dice) -> Tensor:
    """What is done to uint8 images before they are normalized."""
    images = random_crop(images, config.crop_padding, dice)
    if config.crop_scale < 1:
        images = random_resized_crop(images, config.crop_scale, dice)
    if config.flip:
        images = random_flip(images, dice)
    return randaugment(images, config.randaugment, config.magnitude, dice) if config.randaugment else images


def seed_of(seed: int, moment: int) -> int:
    """A seed for one epoch or step of the training with `seed`."""
    return seed * 1_000_003 + moment
