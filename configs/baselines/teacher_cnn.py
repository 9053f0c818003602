"""A convolutional network that learns CIFAR-10 in minutes of a CPU, to be the teacher of Vision Transformers.

After airbench94 of Keller Jordan (arXiv 2404.00498): whitened 2x2 patches, then three groups of two convolutions,
narrow enough for little work, with GELU and batch norms. Differently from there, the whitening is a table instead of
an eigendecomposition of the training images, and batch norms learn their scale.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 256, 256)
# Deviations of 2x2 patches of normalised CIFAR-10 images along colours (rows: luma, red - blue, green) times Haar
# wavelets (columns: mean, horizontal, vertical, diagonal). They match the square roots of the eigenvalues to 5 %.
DEVIATIONS = ((3.184, 0.585, 0.634, 0.234), (0.870, 0.063, 0.076, 0.015), (0.410, 0.041, 0.047, 0.012))
EPSILON = 5e-4  # added to variances, so that the noise of JPEG in the rarest directions is not blown up


def teacher_cnn() -> nn.Module:
    """(B, 3, 32, 32) -> (B, 10); 1.97 M weights, 118 MMACs."""
    return Network(3, 10)


class Network(nn.Module):
    pretrained_cfg = {"input_size": (3, 32, 32)}  # noqa: RUF012  as timm says it: channels, height, width

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.whiten = nn.Conv2d(channels, 24, 2, bias=False)
        self.whiten.weight.data = torch.cat([whitening(), -whitening()])
        widths = (24, *WIDTHS)
        self.groups = nn.Sequential(*(Group(*pair) for pair in zip(widths, WIDTHS, strict=False)))
        self.head = nn.Linear(WIDTHS[-1], classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.groups(F.gelu(self.whiten(images)))
        return self.head(F.max_pool2d(x, 3).flatten(1)) / 9


class Group(nn.Module):
    """(B, width in, height, width) -> (B, width out, height / 2, width / 2)."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.conv1, self.norm1 = convolution(width_in, width_out), nn.BatchNorm2d(width_out)
        self.conv2, self.norm2 = convolution(width_out, width_out), nn.BatchNorm2d(width_out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


def convolution(width_in: int, width_out: int) -> nn.Conv2d:
    """3x3, whose first channels begin by passing the input on."""
    made = nn.Conv2d(width_in, width_out, 3, padding=1, bias=False)
    nn.init.dirac_(made.weight.data[: min(width_in, width_out)])
    return made


def whitening() -> Tensor:
    """Filters (12, 3, 2, 2) of orthogonal directions, each brought to deviation 1."""
    colours = F.normalize(torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]]))
    haar = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    filters = torch.einsum("pc,vh,wy->pvwchy", colours, haar, haar)
    scale = (torch.tensor(DEVIATIONS).square() + EPSILON).rsqrt().view(3, 2, 2, 1, 1, 1)
    return (filters * scale).flatten(0, 2)
