"""The training that a person writes with timm and torchvision, as an endless series of steps.

Legend: n images, B images of a batch, C channels, N tokens, D width.
"""

import itertools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

from baselines.data import TensorSplit
from baselines.recipe import TrainConfig
from baselines.tokenizer import tokenizer
from baselines.vit import ViTConfig

READY = 4  # batches that are made before, where no loader takes part


def steps(
    shape: ViTConfig,
    split: TensorSplit,
    recipe: TrainConfig,
    normalization: tuple[tuple[float, ...], tuple[float, ...]],
    device: torch.device,
    workers: int | None,
) -> Iterator[int]:
    """Trains for ever and gives the number of images after each step.

    Args:
        recipe: sizes, rates, augmentation and precision; the same that ours trains with.
        normalization: mean and deviation of each channel.
        workers: processes of the loader, 0 for none; None goes round a few batches that were made before.
    """
    torch.manual_seed(0)
    model = vision_transformer(shape).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    batches = iter(loader(split, recipe, normalization, device, workers or 0))
    if workers is None:
        ready = list(itertools.islice(batches, READY))
        batches = itertools.cycle([(images.to(device), labels.to(device)) for images, labels in ready])
    for images, labels in batches:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = F.cross_entropy(model(images), labels, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        yield len(labels)


def vision_transformer(shape: ViTConfig) -> nn.Module:
    """timm's model of that geometry; where it has none of the kind, with our tokenizer, and the mean for a pool."""
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=shape.image_size,
        patch_size=shape.patch_size,
        in_chans=shape.channels,
        num_classes=shape.classes,
        embed_dim=shape.dim,
        depth=shape.depth,
        num_heads=shape.heads,
        mlp_ratio=shape.mlp_dim / shape.dim,
        class_token=shape.pool == "cls",
        global_pool="token" if shape.pool == "cls" else "avg",
        drop_path_rate=shape.drop_path,
    )
    if shape.tokenizer != "linear":
        model.patch_embed = nn.Sequential(tokenizer(shape), nn.Flatten(2), Transpose())
    return model


class Transpose(nn.Module):
    def forward(self, x_BDN: Tensor) -> Tensor:
        return x_BDN.transpose(1, 2)


class Pictures(Dataset[tuple[Tensor, int]]):
    """PIL images in memory, as torchvision's CIFAR-10 gives them; (n, C, height, width) uint8 before."""

    def __init__(self, split: TensorSplit, transform: Callable[[Image.Image], Tensor]):
        self.pictures = [Image.fromarray(pixels) for pixels in split.images.cpu().permute(0, 2, 3, 1).numpy()]
        self.labels: list[int] = split.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]


def loader(
    split: TensorSplit,
    recipe: TrainConfig,
    normalization: tuple[tuple[float, ...], tuple[float, ...]],
    device: torch.device,
    workers: int,
) -> DataLoader[tuple[Tensor, int]]:
    """Batches without end: no pause between two epochs, which would count against a set as small as this."""
    steps = [transforms.RandomCrop(split.images.shape[-2:], recipe.crop_padding), transforms.RandomHorizontalFlip()]
    if recipe.randaugment:
        steps.append(transforms.RandAugment(recipe.randaugment, round(recipe.magnitude)))
    transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(*normalization)])
    pictures = Pictures(split, transform)
    return DataLoader(
        pictures,
        recipe.batch_size,
        sampler=RandomSampler(pictures, replacement=True, num_samples=10**9),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        drop_last=True,
    )
