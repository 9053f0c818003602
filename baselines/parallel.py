"""A network as one process or several run it.

Legend: T tokens or images over which a batch norm looks, D channels.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from baselines.distributed import World
from baselines.output import ViTOutput
from baselines.tokenizer import TokenBatchNorm
from baselines.vit import VisionTransformer

Losses = tuple[dict[str, Tensor], dict[str, Tensor]]


class OutputNetwork(nn.Module):
    """Calls `compute_output` of a model, as something to compile or to share among processes."""

    def __init__(self, model: VisionTransformer):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> ViTOutput:
        return self.model.compute_output(images)


class WithLosses(nn.Module):
    """Calls `compute`, which runs `network`: what it returns shows which weights the losses of a step depend on."""

    def __init__(self, network: nn.Module, compute: Callable[[Any], Losses]):
        super().__init__()
        self.network, self.compute = network, compute

    def forward(self, batch: Any) -> Losses:
        return self.compute(batch)


def shared(network: nn.Module, compute: Callable[[Any], Losses]) -> Callable[[Any], Losses]:
    """`compute`, so that the gradients of its losses become their means over all processes.

    Weights that no loss depends on keep no gradient, as in one process. Finding them also fixes in which order
    gradients are added up, and so the bits of a training that goes on.
    """
    return DistributedDataParallel(WithLosses(network, compute), find_unused_parameters=True)


def join_batch_norms(model: nn.Module) -> None:
    """Lets batch norms look at the batches of all processes while they train."""
    for module in model.modules():
        if type(module) is TokenBatchNorm:
            module.__class__ = SharedBatchNorm


def part_batch_norms(model: nn.Module) -> None:
    for module in model.modules():
        if type(module) is SharedBatchNorm:
            module.__class__ = TokenBatchNorm  # pyright: ignore[reportAttributeAccessIssue]


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


@torch.no_grad()
def even_out(model: nn.Module, world: World) -> None:
    """Gives all processes the mean of what their models observed in the batch: statistics, ranges."""
    if world.size == 1:
        return
    buffers = {name: value for name, value in model.named_buffers() if value.is_floating_point()}
    for name, value in world.mean(buffers).items():
        buffers[name].copy_(value)
