"""The Vision Transformer of this project, defined once.

Dosovitskiy et al. 2021 (arXiv 2010.11929) with pre-norm blocks, fused qkv and `scaled_dot_product_attention`.
The forward pass is embed -> encoder -> norm -> pool -> head. Compression methods attach to it from outside:
they replace `encoder` (the loop over blocks) or swap a Linear, and never copy a class of this file.

Legend: B images, C channels, N tokens incl. the class token, D width (`dim`), H heads, K width of a head,
        L blocks (`depth`), T tokens of a packed batch (see `ragged.py`).
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.attention import Attention
from baselines.classifier import Classifier
from baselines.geometry import BlockSizes, ViTConfig
from baselines.output import EncoderOutput, ViTOutput
from baselines.ragged import Ragged
from baselines.tokenizer import SequencePool, norm, normalize_weights, tokenizer

__all__ = ["Attention", "Block", "BlockSizes", "Encoder", "Mlp", "ViTConfig", "VisionTransformer"]


class Mlp(nn.Module):
    def __init__(self, config: ViTConfig, sizes: BlockSizes):
        super().__init__()
        self.fc1 = nn.Linear(config.dim, sizes.mlp_dim)
        self.fc2 = nn.Linear(sizes.mlp_dim, config.dim)
        self.dropout, self.approximate = config.dropout, "tanh" if config.activation == "gelu_tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.dropout(F.gelu(self.fc1(x), approximate=self.approximate), self.dropout, self.training))


Between = Callable[[Tensor, Tensor, Tensor], Tensor]


class Block(nn.Module):
    """Pre-norm transformer block; `drop_path` drops a whole branch for an image (stochastic depth)."""

    def __init__(self, config: ViTConfig, drop_path: float, sizes: BlockSizes):
        super().__init__()
        self.norm1, self.attn = norm(config), Attention(config, sizes)
        self.norm2, self.mlp = norm(config), Mlp(config, sizes)
        start = torch.full((config.dim,), config.layer_scale)
        self.scale1, self.scale2 = (nn.Parameter(start.clone()) if config.layer_scale else None for _ in "12")
        self.drop_path = drop_path

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        layout: Ragged | None = None,
        weight: Tensor | None = None,
        between: Between | None = None,
    ) -> Tensor:
        """(B, N, D) -> (B, N, D), or packed (T, D) -> (T, D); see `Attention`.

        Args:
            between: takes the tokens between both halves, with queries and keys (B, H, N, K); may return fewer.
        """
        mixed, q, k = self.attn(self.norm1(x), mask, layout, weight)
        x = x + self._drop(mixed if self.scale1 is None else mixed * self.scale1)
        if between is not None:
            x = between(x, q, k)
        refined = self.mlp(self.norm2(x))
        return x + self._drop(refined if self.scale2 is None else refined * self.scale2)

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
    own_macs: int = 0  # of an image, in what the encoder adds to the blocks
    token_macs: int = 0  # of each token in each block but the last, likewise

    def __init__(self, blocks: Iterable[nn.Module]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x_BND: Tensor) -> EncoderOutput:
        """Runs all blocks."""
        for block in self.blocks:
            x_BND = block(x_BND)
        return EncoderOutput(x_BND)


class VisionTransformer(Classifier[ViTConfig]):
    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        self.patch_embed = tokenizer(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim)) if config.pool == "cls" else None
        self.distill_token = nn.Parameter(torch.zeros(1, 1, config.dim)) if config.distill_token else None
        registers = torch.zeros(1, config.registers, config.dim)
        self.registers = nn.Parameter(registers) if config.registers else None
        self.pos_embed = nn.Parameter(torch.empty(1, config.tokens, config.dim))
        self.pre_norm = norm(config) if config.pre_norm else None
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.encoder = Encoder([Block(config, *each) for each in zip(rates, config.blocks, strict=True)])
        self.norm = norm(config)
        self.sequence_pool = SequencePool(config.dim) if config.pool == "seq" else None
        self.representation = nn.Linear(config.dim, config.representation) if config.representation else None
        self.head = nn.Linear(config.representation or config.dim, config.classes)
        self.distill_head = nn.Linear(config.dim, config.classes) if config.distill_token else None
        self._init_weights()

    def compute_output(self, images: Tensor) -> ViTOutput:
        """Normalised images (B, C, height, width) -> logits (B, classes) and by-products.

        With a distillation token, training gets the logits of each head, and evaluation their mean, as in DeiT.
        """
        return self.finish(self.encoder(self.embed(images)))

    def finish(self, encoded: EncoderOutput) -> ViTOutput:
        """What the encoder gave -> logits and by-products."""
        tokens_BRD = self.norm(encoded.tokens) if self.config.norm_at == "tokens" else encoded.tokens
        pooled = self.pool(tokens_BRD, encoded.sizes)
        if self.config.norm_at == "pooled":
            pooled = self.norm(pooled)
        logits = self.head(pooled if self.representation is None else self.representation(pooled).tanh())
        if self.distill_head is None:
            return ViTOutput(logits, tokens_BRD, encoded)
        taught = self.distill_head(tokens_BRD[:, 1])
        if self.training:
            return ViTOutput(logits, tokens_BRD, encoded, taught)
        return ViTOutput((logits + taught) / 2, tokens_BRD, encoded)

    @property
    def ends(self) -> tuple[nn.Module, nn.Module]:
        return self.patch_embed, self.head

    def pool(self, x_BND: Tensor, size_BN: Tensor | None = None) -> Tensor:
        """Tokens (B, N, D) -> what the head looks at (B, D).

        Args:
            size_BN: patches that each token stands for.
        """
        if self.config.pool == "cls":
            return x_BND[:, 0]
        if self.config.registers:
            x_BND = x_BND[:, self.config.registers :]
            size_BN = None if size_BN is None else size_BN[:, self.config.registers :]
        if self.sequence_pool is not None:
            return self.sequence_pool(x_BND, size_BN)
        if size_BN is None:
            return x_BND.mean(1)
        return (normalize_weights(size_BN.to(x_BND.dtype))[..., None] * x_BND).sum(1)

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, C, height, width) -> tokens (B, N, D) with positions added."""
        x_BND = self.patch_embed(images).flatten(2).transpose(1, 2)
        first = (self.cls_token, self.distill_token, self.registers)
        prefix = [token.expand(x_BND.shape[0], -1, -1) for token in first if token is not None]
        x_BND = torch.cat([*prefix, x_BND], 1) if prefix else x_BND
        x_BND = F.dropout(x_BND + self.pos_embed, self.config.dropout, self.training)
        return x_BND if self.pre_norm is None else self.pre_norm(x_BND)

    def _init_weights(self) -> None:
        for table in (self.pos_embed, self.cls_token, self.distill_token, self.registers):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
