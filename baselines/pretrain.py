"""Masked image modelling: a Vision Transformer learns from images without labels, by filling in what was hidden.

SimMIM (Xie et al. 2022, arXiv 2111.09886): a share of the patches is hidden, the encoder runs over all tokens, one
linear layer predicts the pixels of each patch, and the L1 distance counts on hidden patches only. It runs through the
one training loop; mask token and decoder live as long as the training does and leave a plain model behind.

Legend: B images, C channels, N patches, D width, P pixels of a patch times C.
"""

import copy
import math
from typing import Any

import torch
from pydantic import AliasChoices, Field, model_validator
from torch import Tensor, nn

from baselines.augment import Dice
from baselines.data import Data
from baselines.errors import InputError
from baselines.feed import Batch, seed_of
from baselines.recipe import TrainConfig
from baselines.train import Trainer
from baselines.vit import VisionTransformer, ViTConfig

FOR_LABELS = ("head_lr", "freeze", "label_smoothing", "loss", "focal_gamma", "class_weights", "ohem", "chosen_by")
NOT_OF_ONE_IMAGE = ("mixup", "cutmix", "erasing")  # what is hidden could not be told from what is seen
MASKS = 2**60  # keeps the seeds of masks apart from those of augmentation
VALIDATION_SEED = 2**62  # the same masks after every epoch
VALIDATION_BATCH = 512


class PretrainConfig(TrainConfig):
    """Settings of a training without labels. Frozen; unknown keys are errors."""

    mask_ratio: float = Field(default=0.6, gt=0, lt=1)  # share of the patches that is hidden
    mask_size: int = Field(default=1, gt=0, le=2**16)  # side of the squares that are hidden, in patches
    # Predict each patch with its own mean 0 and deviation 1; `normalise` is its older name
    normalize: bool = Field(default=False, validation_alias=AliasChoices("normalize", "normalise"))

    @model_validator(mode="after")
    def _without_labels(self) -> "PretrainConfig":
        for name in (*FOR_LABELS, *NOT_OF_ONE_IMAGE):
            if getattr(self, name) != PretrainConfig.model_fields[name].default:
                why = "is about labels and their head" if name in FOR_LABELS else "puts foreign pixels into an image"
                raise ValueError(f"{name} {why}, and has no place in pretraining; remove it")
        return self


class MaskedTokenizer(nn.Module):
    """Stands in for a tokenizer while a model is pretrained. Hidden pixels come to it as NaN.

    No token learns anything of them: they become 0, the mean, before the tokenizer, since convolutions look beyond
    their patch; and behind it the tokens of hidden patches become the mask token.
    """

    def __init__(self, tokenizer: nn.Module, config: ViTConfig):
        super().__init__()
        self.tokenizer, self.patch_size = tokenizer, config.patch_size
        self.mask_token = nn.Parameter(torch.empty(config.dim))
        self.decoder = nn.Linear(config.dim, config.channels * config.patch_size**2)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, height, width) -> (B, D, grid height, grid width)."""
        hidden = images[:, :1, :: self.patch_size, :: self.patch_size].isnan()
        return torch.where(hidden, self.mask_token[:, None, None], self.tokenizer(images.nan_to_num()))


class Reconstruction(nn.Module):
    """Images (B, C, height, width) with hidden pixels as NaN -> pixels of all patches (B, N, P)."""

    def __init__(self, model: VisionTransformer):
        super().__init__()
        assert isinstance(model.patch_embed, MaskedTokenizer)
        self.model, self.decoder = model, model.patch_embed.decoder

    def forward(self, images: Tensor) -> Tensor:
        x_BND = self.model.encoder(self.model.embed(images)).tokens
        return self.decoder(self.model.norm(x_BND)[:, self.model.config.prefix_tokens :])


class Pretrainer(Trainer):
    """A training without labels; arguments are those of `fit`, `config` being a `PretrainConfig`.

    Records hold `reconstruction`, the loss on hidden patches of training images, and `validation_reconstruction`, that
    of the averaged weights on the images held out, which chooses the epoch.

    Raises:
        InputError: the patches cannot be hidden as the settings say.
    """

    def __init__(
        self,
        model: VisionTransformer,
        data: Data,
        config: PretrainConfig,
        device: torch.device,
        seed: int,
        *others: Any,
    ):
        check(config, model.config)
        self.masking, self.geometry = config, model.config
        torch.manual_seed(seed)  # of mask token and decoder
        model.patch_embed = MaskedTokenizer(model.patch_embed, model.config)
        super().__init__(model, data, config, device, seed, *others)
        self.best["score"] = -math.inf

    def network(self) -> nn.Module:
        return Reconstruction(self.model)

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        total = self.feed.batch_size
        generator = torch.Generator().manual_seed(MASKS + seed_of(self.seed, self.step))
        masked = self._draw(Dice(generator, total, self.world.part(total)))
        predicted = self.forward(hide(batch.images, masked))
        return {"reconstruction": self._distance(predicted, batch.images, masked).mean()}, {}

    def _draw(self, dice: Dice) -> Tensor:
        masks = draw_masks(self.geometry.grid, self.masking.mask_ratio, self.masking.mask_size, dice)
        return masks.to(self.device, non_blocking=True)

    def _distance(self, predicted: Tensor, images: Tensor, masked: Tensor) -> Tensor:
        target = patches(images, self.geometry.patch_size)
        return distance(predicted, standardised(target) if self.masking.normalize else target, masked)

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """The loss of the averaged weights on the images held out; keeps them if they are the best so far."""
        total = len(self.validation_indices)
        if not total:
            return {}
        assert isinstance(self.average.module, VisionTransformer)
        network = Reconstruction(self.average.module).eval()
        part = self.world.part(total)
        masks = self._draw(Dice(torch.Generator().manual_seed(VALIDATION_SEED), total, part)).split(VALIDATION_BATCH)
        batches = self.data.batches(
            self.data.train, VALIDATION_BATCH, self.device, indices=self.validation_indices[part]
        )
        summed = torch.zeros((), device=self.device)
        for (images, _), masked in zip(batches, masks, strict=True):
            summed += self._distance(network(hide(images, masked)), images, masked).sum()
        loss = self.world.sum(summed).item() / total
        if -loss >= self.best["score"]:
            self.best = {"score": -loss, "weights": copy.deepcopy(self.average.module.state_dict())}
        return {"validation_reconstruction": loss}

    def finish(self) -> None:
        """Leaves the chosen weights in the model, and nothing that only this training needed."""
        super().finish()
        assert isinstance(self.model.patch_embed, MaskedTokenizer)
        self.model.patch_embed = self.model.patch_embed.tokenizer


def check(config: PretrainConfig, geometry: ViTConfig) -> None:
    """Raises InputError where patches cannot be hidden as the settings say."""
    height, width = geometry.grid
    if height % config.mask_size or width % config.mask_size:
        raise InputError(
            f"[pretrain] mask_size {config.mask_size} does not divide the {height}x{width} patches of an image; "
            "choose one that divides both"
        )
    if config.normalize and geometry.patch_size**2 * geometry.channels == 1:
        raise InputError("[pretrain] normalize leaves nothing of a patch of one pixel; set it to false")


def draw_masks(grid: tuple[int, int], ratio: float, size: int, dice: Dice) -> Tensor:
    """Which patches are hidden: squares of `size` x `size`, as many in every image; (B, grid height, grid width)."""
    rows, columns = grid[0] // size, grid[1] // size
    count = max(round(ratio * rows * columns), 1)
    place = dice.uniform(rows * columns).argsort(1).argsort(1)
    squares = (place < count).unflatten(1, (rows, columns))
    return squares.repeat_interleave(size, 1).repeat_interleave(size, 2)


def hide(images: Tensor, masked: Tensor) -> Tensor:
    """Images (B, C, height, width) with NaN in place of the patches in `masked` (B, grid height, grid width)."""
    size = images.shape[-1] // masked.shape[-1]
    pixels = masked.repeat_interleave(size, 1).repeat_interleave(size, 2)
    return images.masked_fill(pixels[:, None], math.nan)


def patches(images: Tensor, size: int) -> Tensor:
    """(B, C, height, width) -> (B, N, P)."""
    tiles = images.unflatten(3, (-1, size)).unflatten(2, (-1, size))
    return tiles.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def standardised(target: Tensor) -> Tensor:
    """Patches (B, N, P), each with its own mean and deviation taken out (MAE, arXiv 2111.06377, section 3)."""
    return (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()


def distance(predicted: Tensor, target: Tensor, masked: Tensor) -> Tensor:
    """Mean L1 distance over those patches (B, N, P) that are `masked` (B, grid height, grid width), for each image."""
    each = (predicted.float() - target.float()).abs().mean(-1)
    hidden = masked.flatten(1)
    return (each * hidden).sum(1) / hidden.sum(1)
