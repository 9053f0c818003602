"""Multi-head self-attention: of images of one length, or of a packed batch of different ones.

Legend: as in `vit.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.geometry import BlockSizes, ViTConfig
from baselines.ragged import Ragged
from baselines.tokenizer import normalize_weights


class Attention(nn.Module):
    """Multi-head self-attention.

    `fused = False` spells the two matrix products out: the ONNX exporter cannot trace the fused kernel
    where the number of tokens depends on the data. Training in bf16 on a CPU spells them out too: forward and
    backward of torch's fused kernel take 6 times as long there with 17 or 65 tokens, and twice with 577.
    """

    def __init__(self, config: ViTConfig, sizes: BlockSizes | None = None):
        super().__init__()
        sizes = sizes or config.blocks[0]
        self.heads, self.qk_width, self.v_width = sizes.heads, sizes.qk_width, sizes.v_width
        self.dropout, self.fused = config.dropout, True
        self.rounding: nn.ModuleDict | None = None  # of queries, keys, values and weights, before they are multiplied
        self.qkv = nn.Linear(config.dim, 2 * self.qk_width + self.v_width)
        width, eps = sizes.qk_dim, config.norm_eps
        self.q_norm, self.k_norm = (nn.LayerNorm(width, eps) if config.qk_norm else None for _ in "qk")
        self.proj = nn.Linear(self.v_width, config.dim)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, layout: Ragged | None = None, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) -> (B, N, D), and the queries and keys (B, H, N, K) that made it.

        With `layout`, packed (T, D) -> (T, D); queries and keys are then those of a batch of one image only.

        Args:
            mask: keys that may be attended to, bool, or what is added to the scores, float; broadcastable to
                (B, H, N, N).
            layout: where each packed token belongs; replaces `mask`.
            weight: factor on the attention that each key gets, before it is normalized, (B, N); 0 hides a key.
                It has a gradient, also where it is 0.
        """
        qkv = self.qkv(x)
        if layout is None:
            mixed, q, k = self._mix(qkv, mask, weight)
            return self.proj(mixed), q, k
        if qkv.is_cuda and layout.batch > 1 and not layout.padded and self.even:
            mixed, q, k = self.jagged(qkv, layout)
            return self.proj(mixed), q, k
        parts = [self._mix(part, keys, None) for part, keys in layout.split(qkv)]
        return self.proj(layout.join([mixed for mixed, _, _ in parts])), *parts[-1][1:]

    @property
    def even(self) -> bool:
        """Whether values are as wide as queries and keys."""
        return self.v_width == self.qk_width

    def split_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, 3HK) -> queries, keys and values, each (B, H, N, K); values may have a width of their own."""
        batch, tokens, _ = qkv.shape
        if self.even:
            q, k, v = qkv.view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            return q, k, v
        parts = qkv.split([self.qk_width, self.qk_width, self.v_width], -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return q, k, v

    def jagged(self, qkv: Tensor, layout: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """Packed (T, 3HK) -> (T, HK), queries and keys (T, H, K).

        All images go through one call of a kernel that takes different lengths, for GPUs.
        """
        offsets = F.pad(layout.counts_B.cumsum(0), (1, 0))
        q, k, v = (part.unflatten(1, (self.heads, -1)) for part in qkv.chunk(3, 1))  # each (T, H, K)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        shortest, longest = min(layout.lengths), max(layout.lengths)  # or else each nested tensor waits for its own
        queries, keys, values = (
            torch.nested.nested_tensor_from_jagged(
                x.contiguous(), offsets, min_seqlen=shortest, max_seqlen=longest
            ).transpose(1, 2)
            for x in (q, k, v)
        )
        return F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).values().flatten(1), q, k

    def _mix(self, qkv: Tensor, mask: Tensor | None, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, 3HK) -> (B, N, HK), queries and keys."""
        batch, tokens, _ = qkv.shape
        q, k, v = self.split_heads(qkv)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        slow = self.training and q.dtype is torch.bfloat16 and q.device.type == "cpu"
        dropout = self.dropout if self.training else 0.0
        if self.rounding is not None:
            q, k, v = (self.rounding[name](x) for name, x in (("q", q), ("k", k), ("v", v)))
            out = F.dropout(self.rounding["weights"](self.weights(q, k, mask, weight)), dropout) @ v
        elif self.fused and weight is None and not slow:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        else:
            out = F.dropout(self.weights(q, k, mask, weight), dropout) @ v
        return out.transpose(1, 2).reshape(batch, tokens, -1), q, k

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None, weight: Tensor | None) -> Tensor:
        """Attention (B, H, N, N) of each query to each key."""
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        if mask is not None and mask.dtype is torch.bool:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        elif mask is not None:
            scores = scores + mask
        if weight is None:
            return scores.softmax(-1)
        return normalize_weights(scores.float().softmax(-1) * weight[:, None, None]).to(q.dtype)
