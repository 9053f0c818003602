"""Batch norms that look at the batches of all processes.

Legend: T tokens or images over which a batch norm looks, D channels.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from baselines.tokenizer import TokenBatchNorm


class SharedBatchNorm(TokenBatchNorm):
    """A `TokenBatchNorm` over all processes, on any device; torch's `SyncBatchNorm` knows GPUs only."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x_TD = input.reshape(-1, input.shape[-1]).float()
        var_D, mean_D = torch.var_mean(x_TD, 0, correction=0)
        size = dist.get_world_size()
        slots = torch.zeros(size, 2, len(mean_D), device=x_TD.device)
        slots[dist.get_rank()] = torch.stack([mean_D, var_D])
        means, variances = Sum.apply(slots).unbind(1)
        mean_D = means.mean(0)
        var_D = variances.mean(0) + (means - mean_D).square().mean(0)
        total = len(x_TD) * size
        for name, now_D in (("running_mean", mean_D), ("running_var", var_D * (total / max(total - 1, 1)))):
            self.get_buffer(name).lerp_(now_D.detach(), self.momentum or 0.0)
        self.get_buffer("num_batches_tracked").add_(1)
        scaled = (x_TD - mean_D) * (var_D + self.eps).rsqrt() * self.weight + self.bias
        return scaled.to(input.dtype).view(input.shape)


class Sum(torch.autograd.Function):
    """The sum over all processes, through which gradients flow."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        return _all_reduce(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return _all_reduce(gradients[0])


@torch.compiler.disable()
def _all_reduce(value: Tensor) -> Tensor:
    value = value.contiguous().clone()
    dist.all_reduce(value)
    return value
