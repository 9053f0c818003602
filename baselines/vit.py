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

from baselines.geometry import ViTConfig
from baselines.ragged import Ragged
from baselines.tokenizer import SequencePool, norm, tokenizer

__all__ = ["Attention", "Block", "Encoder", "Mlp", "ViTConfig", "VisionTransformer"]


class Attention(nn.Module):
    """Multi-head self-attention.

    `fused = False` spells the two matrix products out: the ONNX exporter cannot trace the fused kernel
    where the number of tokens depends on the data. Training in bf16 on a CPU spells them out too: forward and
    backward of torch's fused kernel take 6 times as long there with 17 or 65 tokens, and twice with 577.
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
        if self.fused and not (self.training and q.dtype is torch.bfloat16 and q.device.type == "cpu"):
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
        self.norm1, self.attn = norm(config), Attention(config)
        self.norm2, self.mlp = norm(config), Mlp(config)
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
        self.distill_token = nn.Parameter(torch.zeros(1, 1, config.dim)) if config.distill_token else None
        self.pos_embed = nn.Parameter(torch.empty(1, config.tokens, config.dim))
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.encoder = Encoder([Block(config, rate) for rate in rates])
        self.norm = norm(config)
        self.sequence_pool = SequencePool(config.dim) if config.pool == "seq" else None
        self.head = nn.Linear(config.dim, config.classes)
        self.distill_head = nn.Linear(config.dim, config.classes) if config.distill_token else None
        self._init_weights()

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, height, width) -> logits (B, classes)."""
        return self.forward_aux(images)[0]

    def forward_aux(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B, classes), and by-products: what the encoder reports and `tokens_out`, the tokens after the norm.

        With a distillation token, training gets the logits of each head (`distill_logits` beside the first), and
        evaluation their mean, as in DeiT.
        """
        x_BND, aux = self.encoder(self.embed(images))
        x_BND = self.norm(x_BND)
        logits = self.head(self.pooled(x_BND))
        aux = {**aux, "tokens_out": x_BND}
        if self.distill_head is None:
            return logits, aux
        taught = self.distill_head(x_BND[:, 1])
        return (logits, {**aux, "distill_logits": taught}) if self.training else ((logits + taught) / 2, aux)

    def pooled(self, x_BND: Tensor) -> Tensor:
        """Tokens after the norm (B, N, D) -> what the head looks at (B, D)."""
        if self.config.pool == "cls":
            return x_BND[:, 0]
        return x_BND.mean(1) if self.sequence_pool is None else self.sequence_pool(x_BND)

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, C, height, width) -> tokens (B, N, D) with positions added."""
        x_BND = self.patch_embed(images).flatten(2).transpose(1, 2)
        first = [
            token.expand(x_BND.shape[0], -1, -1) for token in (self.cls_token, self.distill_token) if token is not None
        ]
        x_BND = torch.cat([*first, x_BND], 1) if first else x_BND
        return F.dropout(x_BND + self.pos_embed, self.config.dropout, self.training)

    def _init_weights(self) -> None:
        for table in (self.pos_embed, self.cls_token, self.distill_token):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
