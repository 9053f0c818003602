"""What the tests of importers share: models of other libraries with weights of no special kind, and comparisons."""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines.vit import VisionTransformer
from compress import importers
from compress.importers import Content, Hints, ImportedModel
from compress.importers.base import ExportedModel

EXACT = 1e-5  # largest difference of logits
SIZES = [  # image, patch, width, blocks, heads, classes
    (32, 8, 48, 2, 4, 5),
    (24, 4, 60, 3, 5, 3),
    (70, 14, 32, 1, 2, 7),
]
PATCHES = ("patch_embed.proj.weight", "conv_proj.weight")


def redrawn(model: Any) -> Any:
    """The model, in evaluation mode, none of whose weights is 0, or 1, or hardly more, as libraries set them.

    What is added to tokens is small, as in trained models, so that an epsilon of another size shows.
    """
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in model.named_parameters():
            drawn = torch.randn(value.shape, generator=draw)
            if "token" in name or "pos_embed" in name or name.endswith(PATCHES):
                value.copy_((0.01 if name.endswith(PATCHES) else 0.02) * drawn)
            elif value.ndim == 1:
                value.copy_(0.2 * drawn + name.endswith(("weight", "gamma")))
            else:
                value.copy_(drawn / value[0].numel() ** 0.5)
    return model.eval()


def converted(tree: object, hints: Hints | None = None) -> ImportedModel:
    """A model of ours out of a file, or of what would be in one."""
    content = importers.read_checkpoint(tree) if isinstance(tree, Path) else Content(Path("weights.pth"), tree)
    return importers.convert(content, hints or Hints())


def ours(foreign: ImportedModel) -> nn.Module:
    """The model; its pooled tokens are the answer where it knows no classes."""
    model: Any = VisionTransformer(foreign.config)
    model.load_state_dict(foreign.state)
    if not foreign.head:
        model.head = nn.Identity()
        model.distill_head = nn.Identity() if model.distill_head else None
    return model.eval()


def build(name: str, sizes: tuple[int, ...] = SIZES[0], **settings: Any) -> Any:
    """A small model of timm's of that architecture."""
    import timm

    keys = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "num_classes")
    return redrawn(timm.create_model(name, **{**dict(zip(keys, sizes, strict=True)), **settings}))


def images(foreign: ImportedModel) -> Tensor:
    draw = torch.Generator().manual_seed(8)
    return torch.randn(3, foreign.config.channels, *foreign.config.image_size, generator=draw)


def difference(foreign: ImportedModel, theirs: nn.Module) -> float:
    """The largest, between the answers of two models to three random images; weights make answers of about 1."""
    batch = images(foreign)
    with torch.inference_mode():
        expected = theirs(batch)
        assert 0.1 < expected.std() < 10
        return float((ours(foreign)(batch) - expected).abs().max())


def made(outgoing: ExportedModel) -> nn.Module:
    """The model of the library, as its `usage` makes it, with exactly the weights that were written."""
    import timm
    import torchvision

    model = eval(outgoing.usage, {"functools": functools, "timm": timm, "torch": torch, "torchvision": torchvision})
    model.load_state_dict(outgoing.tensors, strict=True)
    return model.eval()
