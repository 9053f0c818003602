"""What a Vision Transformer of this project can be: its sizes, and what they entail.

Legend: as in `vit.py`.
"""

import itertools
from typing import Literal

from pydantic import Field, model_validator

from baselines.classifier import MANY, ImageConfig, Side


class ViTConfig(ImageConfig):
    """Geometry of a Vision Transformer. Frozen; unknown keys are errors."""

    image_size: tuple[Side, Side] = (32, 32)  # height, width in pixels; one number means square
    channels: int = Field(default=3, gt=0, le=MANY)  # of the images: 1 grey, 3 colour
    patch_size: int = Field(default=4, gt=0, le=2**16)  # pixels
    dim: int = Field(default=192, gt=0, le=MANY)  # width of a token
    depth: int = Field(default=6, gt=0, le=10_000)  # blocks
    heads: int = Field(default=3, gt=0, le=2**16)  # of attention, in each block
    head_dim: int = Field(default=0, ge=0, le=MANY)  # width of a head; 0: dim / heads
    mlp_dim: int = Field(default=768, gt=0, le=MANY)  # width inside the MLP of each block
    classes: int = Field(default=10, gt=1, le=MANY)
    pool: Literal["cls", "mean", "seq"] = "cls"  # seq: a learned weighted mean (arXiv 2104.05704)
    # conv: 3x3 convolutions of stride 2 (arXiv 2106.14881); cct: 3x3 convolutions, each max-pooled (arXiv 2104.05704)
    # normed: a LayerNorm before and after the linear map, as in vit-pytorch
    tokenizer: Literal["linear", "normed", "conv", "cct"] = "linear"
    norm: Literal["layer", "batch"] = "layer"  # LayerNorm or BatchNorm
    norm_eps: float = Field(default=1e-5, ge=0, le=1)  # epsilon of the norms
    norm_at: Literal["tokens", "pooled"] = "tokens"  # the last norm; pooled: of the mean, as timm's fc_norm
    pre_norm: bool = False  # a norm before the first block, as in CLIP
    activation: Literal["gelu", "gelu_tanh"] = "gelu"  # exact, or the approximation of Flax
    representation: int = Field(
        default=0, ge=0, le=MANY
    )  # width of a layer with tanh before the head (arXiv 2010.11929); 0: none
    distill_token: bool = False  # a second token and head that learn from a teacher (DeiT, arXiv 2012.12877)
    registers: int = Field(default=0, ge=0, le=2**16)  # further tokens that nobody looks at (arXiv 2309.16588)
    layer_scale: float = Field(default=0.0, ge=0, le=1e6)  # where factors of branches start (arXiv 2103.17239); 0: none
    qk_norm: bool = False  # queries and keys are normalized in each head (arXiv 2302.05442)
    dropout: float = Field(default=0.0, ge=0, lt=1)  # rate, while training
    drop_path: float = Field(default=0.0, ge=0, lt=1)  # rate of the last block; rises linearly from 0

    @model_validator(mode="after")
    def _fits(self) -> "ViTConfig":
        height, width = self.image_size
        if min(height, width) <= 0 or height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"image_size {height}x{width} is not divisible by patch_size {self.patch_size}; "
                "choose a patch_size that divides both sides"
            )
        if self.dim % self.heads and not self.head_dim:
            raise ValueError(f"heads {self.heads} does not divide dim {self.dim}; choose heads that divides it")
        if self.tokenizer in ("conv", "cct"):
            stages = self.patch_size.bit_length() - 1
            if 2**stages != self.patch_size or self.dim % 2 ** max(stages - 1, 0):
                raise ValueError(
                    f"tokenizer {self.tokenizer!r} needs a patch_size that is a power of two, and dim divisible by "
                    f"half of it, not patch_size {self.patch_size} and dim {self.dim}; use tokenizer 'linear'"
                )
        if self.norm_at == "pooled" and self.pool != "mean":
            raise ValueError(f"norm_at 'pooled' needs pool 'mean', not {self.pool!r}; set pool = \"mean\"")
        if self.distill_token and self.representation:
            raise ValueError("representation and distill_token exclude each other; remove one of them")
        if self.distill_token and self.pool != "cls":
            raise ValueError(f"distill_token needs pool 'cls', not {self.pool!r}; set pool = \"cls\"")
        return self

    @property
    def head_width(self) -> int:
        """Width of queries, keys and values in one head."""
        return self.head_dim or self.dim // self.heads

    @property
    def inner_dim(self) -> int:
        """Width of queries, keys and values of all heads together."""
        return self.heads * self.head_width

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along height and width."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def prefix_tokens(self) -> int:
        """Tokens that are no patch and stand first: class, distillation, registers."""
        return self.head_tokens + self.registers

    @property
    def head_tokens(self) -> int:
        """Tokens of the prefix that the heads look at."""
        return (self.pool == "cls") + self.distill_token

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1] + self.prefix_tokens

    @property
    def conv_channels(self) -> list[tuple[int, int]]:
        """(in, out) channels of each convolution of the `conv` and `cct` tokenizers, doubling up to `dim`."""
        stages = max(self.patch_size.bit_length() - 1, 1)
        widths = [self.channels, *(self.dim // 2**i for i in reversed(range(stages)))]
        return list(itertools.pairwise(widths))
