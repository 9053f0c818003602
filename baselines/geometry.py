"""What a Vision Transformer of this project can be: its sizes, and what they entail.

Legend: as in `vit.py`.
"""

import itertools
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from baselines.classifier import MANY, ImageConfig, Side


class BlockSizes(NamedTuple):
    """Widths inside one block."""

    heads: int
    qk_dim: int  # of queries and keys, in one head
    v_dim: int  # of values, in one head
    mlp_dim: int  # inside the MLP

    @property
    def qk_width(self) -> int:
        """Width of the queries of all heads together, which is that of the keys."""
        return self.heads * self.qk_dim

    @property
    def v_width(self) -> int:
        """Width of the values of all heads together."""
        return self.heads * self.v_dim


Width = Annotated[int, Field(gt=0, le=MANY)]
UNEVEN = ("block_sizes", "tokenizer_dim")  # settings that only a pruned model has


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
    # Heads, width of queries and keys in a head, width of values in a head, width inside the MLP of each block, where
    # blocks differ; heads, head_dim and mlp_dim then stand for none of them. None: all blocks are alike
    block_sizes: tuple[tuple[Width, Width, Width, Width], ...] | None = None
    tokenizer_dim: int | None = Field(default=None, gt=0, le=MANY)  # up to which convolutions double; None: dim
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
            if 2**stages != self.patch_size or (self.tokenizer_dim or self.dim) % 2 ** max(stages - 1, 0):
                raise ValueError(
                    f"tokenizer {self.tokenizer!r} needs a patch_size that is a power of two, and dim divisible by "
                    f"half of it, not patch_size {self.patch_size} and dim {self.dim}; use tokenizer 'linear'"
                )
        if self.block_sizes is not None and len(self.block_sizes) != self.depth:
            raise ValueError(
                f"block_sizes has {len(self.block_sizes)} entries for {self.depth} blocks; give one for each block"
            )
        if self.norm_at == "pooled" and self.pool != "mean":
            raise ValueError(f"norm_at 'pooled' needs pool 'mean', not {self.pool!r}; set pool = \"mean\"")
        if self.distill_token and self.representation:
            raise ValueError("representation and distill_token exclude each other; remove one of them")
        if self.distill_token and self.pool != "cls":
            raise ValueError(f"distill_token needs pool 'cls', not {self.pool!r}; set pool = \"cls\"")
        return self

    @model_serializer(mode="wrap")
    def _leave_out(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What only pruned models have is not said of others: their files and hashes are those of older versions."""
        return {name: value for name, value in dump(self).items() if name not in UNEVEN or value is not None}

    @property
    def head_width(self) -> int:
        """Width of queries, keys and values in one head, where all blocks are alike."""
        return self.head_dim or self.dim // self.heads

    @property
    def inner_dim(self) -> int:
        """Width of queries, keys and values of all heads together, where all blocks are alike."""
        return self.heads * self.head_width

    @property
    def blocks(self) -> list[BlockSizes]:
        """Widths inside each block."""
        if self.block_sizes is not None:
            return [BlockSizes(*sizes) for sizes in self.block_sizes]
        return [BlockSizes(self.heads, self.head_width, self.head_width, self.mlp_dim)] * self.depth

    @property
    def summary(self) -> str:
        """Depth, width, heads and width of the MLP; those of each block, where they differ."""
        columns = ([each.heads for each in self.blocks], [each.mlp_dim for each in self.blocks])
        told = (column if len(set(column)) > 1 else column[:1] for column in columns)
        return ", ".join([str(self.depth), str(self.dim), *("/".join(map(str, each)) for each in told)])

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
        """(in, out) channels of each convolution of the `conv` and `cct` tokenizers, doubling up to `tokenizer_dim`.

        The last one gives tokens of width `dim`.
        """
        stages, last = max(self.patch_size.bit_length() - 1, 1), self.tokenizer_dim or self.dim
        widths = [self.channels, *(last // 2**i for i in reversed(range(1, stages))), self.dim]
        return list(itertools.pairwise(widths))
