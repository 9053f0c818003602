"""The Vision Transformer of this project, defined once.

Dosovitskiy et al. 2021 (arXiv 2010.11929) with pre-norm blocks, fused qkv and `scaled_dot_product_attention`.
The forward pass is embed -> encoder -> norm -> pool -> head. Compression methods attach to it from outside:
they replace `encoder` (the loop over blocks) or swap a Linear, and never copy a class of this file.

Legend: B images, C channels, N tokens incl. the class token, D width (`dim`), H heads, K width of a head,
        L blocks (`depth`), T tokens of a packed batch (see `ragged.py`).
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor, nn

from baselines.ragged import Ragged


class ViTConfig(BaseModel):
    """Geometry of a Vision Transformer. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: tuple[int, int] = (32, 32)  # height, width in pixels; one number means square
    channels: int = Field(default=3, gt=0)
    patch_size: int = Field(default=4, gt=0)  # pixels
    dim: int = Field(default=192, gt=0)
    depth: int = Field(default=6, gt=0)
    heads: int = Field(default=3, gt=0)
    mlp_dim: int = Field(default=768, gt=0)
    classes: int = Field(default=10, gt=1)
    pool: Literal["cls", "mean"] = "cls"
    tokenizer: Literal["linear", "conv"] = "linear"  # conv: overlapping 3x3 convolutions of stride 2
    dropout: float = Field(default=0.0, ge=0, lt=1)
    drop_path: float = Field(default=0.0, ge=0, lt=1)  # rate of the last block; rises linearly from 0

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _fits(self) -> "ViTConfig":
        height, width = self.image_size
        if min(height, width) <= 0 or height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"image_size {height}x{width} is not divisible by patch_size {self.patch_size}; "
                "choose a patch_size that divides both sides"
            )
        if self.dim % self.heads:
            raise ValueError(f"heads {self.heads} does not divide dim {self.dim}; choose heads that divides it")
        if self.tokenizer == "conv":
            stages = self.patch_size.bit_length() - 1
            if 2**stages != self.patch_size or self.dim % 2 ** max(stages - 1, 0):
                raise ValueError(
                    f"tokenizer 'conv' needs a patch_size that is a power of two, and dim divisible by half of it, "
                    f"not patch_size {self.patch_size} and dim {self.dim}; use tokenizer 'linear'"
                )
        return self

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along height and width."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def prefix_tokens(self) -> int:
        """Tokens that are no patch and stand first."""
        return 1 if self.pool == "cls" else 0

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1] + self.prefix_tokens

    @property
    def conv_channels(self) -> list[tuple[int, int]]:
        """(in, out) channels of each convolution of the `conv` tokenizer."""
        stages = max(self.patch_size.bit_length() - 1, 1)
        widths = [self.channels, *(self.dim // 2**i for i in reversed(range(stages)))]
        return list(itertools.pairwise(widths))


class Attention(nn.Module):
    """Multi-head self-attention.

    `fused = False` spells the two matrix products out: the ONNX exporter cannot trace the fused kernel
    where the number of tokens depends on the data.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.heads, self.dropout, self.fused = config.heads, config.dropout, True
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        layout: Ragged | None = None,
        value_gate: Tensor | None = None,
    ) -> Tensor:
        """(B, N, D) -> (B, N, D), or packed (T, D) -> (T, D) with `layout`.

        Args:
            mask: keys that may be attended to, bool, broadcastable to (B, H, N, N).
            layout: where each packed token belongs; replaces `mask`.
            value_gate: factor on the values of each token, (B, N).
        """
        qkv = self.qkv(x)
        if layout is None:
            return self.proj(self._mix(qkv, mask, value_gate))
        return self.proj(layout.join([self._mix(part, keys, None) for part, keys in layout.split(qkv)]))

    def _mix(self, qkv: Tensor, mask: Tensor | None, value_gate: Tensor | None) -> Tensor:
        """(B, N, 3D) -> (B, N, D)."""
        batch, tokens, _ = qkv.shape
        q, k, v = qkv.view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each (B, H, N, K)
        if value_gate is not None:
            v = v * value_gate[:, None, :, None].to(v.dtype)
        if self.fused:
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
            )
        else:
            scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
            if mask is not None:
                scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
            out = F.dropout(scores.softmax(-1), self.dropout, self.training) @ v
        return out.transpose(1, 2).reshape(batch, tokens, -1)


class Mlp(nn.Module):
    def __init__(self, config: ViTConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.dim, config.mlp_dim)
        self.fc2 = nn.Linear(config.mlp_dim, config.dim)
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.dropout(F.gelu(self.fc1(x)), self.dropout, self.training))


class Block(nn.Module):
    """Pre-norm transformer block; `drop_path` drops a whole branch for an image (stochastic depth)."""

    def __init__(self, config: ViTConfig, drop_path: float):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(config.dim), Attention(config)
        self.norm2, self.mlp = nn.LayerNorm(config.dim), Mlp(config)
        self.drop_path = drop_path

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        layout: Ragged | None = None,
        value_gate: Tensor | None = None,
    ) -> Tensor:
        x = x + self._drop(self.attn(self.norm1(x), mask, layout, value_gate))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _drop(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        kept = torch.rand(branch.shape[0], 1, 1, device=branch.device) >= self.drop_path
        return branch * kept / (1 - self.drop_path)


class Encoder(nn.Module):
    """The loop over blocks. Whatever replaces it keeps `blocks` and the signature of `forward`.

    `watch` is set while one image is observed. An encoder that drops tokens calls it, where it is set, before the next
    block, with the position in its image, 0 to N - 1, of each row that goes on.
    """

    watch: Callable[[Tensor], None] | None = None

    def __init__(self, blocks: Iterable[nn.Module]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x_BND: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs all blocks.

        Returns:
            Tokens for the head, (B, at least those that are pooled, D), and named by-products. One of them is read
            by cost counting: `tokens` (B, L), how many of each image ran in each block; absent where all N did.
        """
        for block in self.blocks:
            x_BND = block(x_BND)
        return x_BND, {}


class VisionTransformer(nn.Module):
    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        self.patch_embed = tokenizer(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim)) if config.pool == "cls" else None
        self.pos_embed = nn.Parameter(torch.empty(1, config.tokens, config.dim))
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.encoder = Encoder([Block(config, rate) for rate in rates])
        self.norm = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, config.classes)
        self._init_weights()

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, height, width) -> logits (B, classes)."""
        return self.forward_aux(images)[0]

    def forward_aux(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B, classes), and what the encoder reports beside them."""
        x_BND, aux = self.encoder(self.embed(images))
        x_BND = self.norm(x_BND)
        return self.head(x_BND[:, 0] if self.config.pool == "cls" else x_BND.mean(1)), aux

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, C, height, width) -> tokens (B, N, D) with positions added."""
        x_BND = self.patch_embed(images).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x_BND = torch.cat([self.cls_token.expand(x_BND.shape[0], -1, -1), x_BND], 1)
        return F.dropout(x_BND + self.pos_embed, self.config.dropout, self.training)

    def _init_weights(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)


def tokenizer(config: ViTConfig) -> nn.Module:
    """Images (B, C, height, width) -> (B, D, grid height, grid width).

    `conv` follows Xiao et al. 2021 (arXiv 2106.14881): overlapping 3x3 convolutions, doubling the width.
    """
    if config.tokenizer == "linear":
        return nn.Conv2d(config.channels, config.dim, config.patch_size, config.patch_size)
    stride = 1 if config.patch_size == 1 else 2
    layers: list[nn.Module] = []
    for channels_in, channels_out in config.conv_channels:
        layers += [nn.Conv2d(channels_in, channels_out, 3, stride, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])  # no activation on the tokens themselves
