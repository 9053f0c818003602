"""The parts of a Vision Transformer that come in several kinds: how images become tokens, and what normalizes them.

Legend: as in `vit.py`.
"""

from torch import Tensor, nn

from baselines.geometry import ViTConfig


def tokenizer(config: ViTConfig) -> nn.Module:
    """Images (B, C, height, width) -> (B, D, grid height, grid width).

    `linear` cuts patches that do not overlap; `normed` normalizes them, and the tokens made of them. `conv` follows
    Xiao et al. 2021 (arXiv 2106.14881): 3x3 convolutions of stride 2. `cct` follows Hassani et al. 2021 (arXiv
    2104.05704): 3x3 convolutions without bias at full resolution, each rectified and max-pooled to half the side.
    Both double the width up to D.
    """
    if config.tokenizer == "normed":
        return NormedPatches(config)
    if config.tokenizer == "linear":
        return nn.Conv2d(config.channels, config.dim, config.patch_size, config.patch_size)
    halve = config.patch_size > 1
    layers: list[nn.Module] = []
    for channels_in, channels_out in config.conv_channels:
        if config.tokenizer == "conv":
            layers += [nn.Conv2d(channels_in, channels_out, 3, 2 if halve else 1, padding=1), nn.ReLU()]
        else:
            layers += [nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), nn.ReLU()]
            layers += [nn.MaxPool2d(3, 2, padding=1)] if halve else []
    if config.tokenizer == "conv":
        return nn.Sequential(*layers[:-1])  # no activation on the tokens themselves
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return nn.Sequential(*layers)


def norm(config: ViTConfig) -> nn.Module:
    return nn.LayerNorm(config.dim, config.norm_eps) if config.norm == "layer" else TokenBatchNorm(config.dim)


class NormedPatches(nn.Module):
    """Patches (channels last within each, as in vit-pytorch), normalized before and after a linear map."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.patch_size, self.grid = config.patch_size, config.grid
        values = config.channels * config.patch_size**2
        self.before = nn.LayerNorm(values, config.norm_eps)
        self.project = nn.Linear(values, config.dim)
        self.after = nn.LayerNorm(config.dim, config.norm_eps)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, height, width) -> (B, D, grid height, grid width)."""
        rows, columns = self.grid
        cut = images.view(images.shape[0], -1, rows, self.patch_size, columns, self.patch_size)
        patches = cut.permute(0, 2, 4, 3, 5, 1).reshape(images.shape[0], rows, columns, -1)
        return self.after(self.project(self.before(patches))).permute(0, 3, 1, 2)


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch normalization of tokens (..., D): each channel over all tokens of the batch (Yao et al. 2021, ICCVW)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.reshape(-1, input.shape[-1])).view(input.shape)


class SequencePool(nn.Module):
    """A mean of tokens under weights that the tokens decide themselves (CCT, arXiv 2104.05704, section 3.1)."""

    def __init__(self, dim: int):
        super().__init__()
        self.score = nn.Linear(dim, 1)

    def weights(self, x_BND: Tensor, size_BN: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N), summing to 1 over the tokens; a token of size 2 counts like two of them."""
        weight_BN = self.score(x_BND).flatten(1).softmax(1)
        return weight_BN if size_BN is None else normalize_weights(weight_BN * size_BN.to(weight_BN.dtype))

    def forward(self, x_BND: Tensor, size_BN: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, D)."""
        return (self.weights(x_BND, size_BN)[:, None] @ x_BND)[:, 0]


def normalize_weights(weight: Tensor) -> Tensor:
    """Weights that are not negative -> the same, summing to 1 over the last dimension."""
    return weight / weight.sum(-1, keepdim=True).clamp(min=1e-12)
