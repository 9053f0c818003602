"""A network as one process or several run it."""

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
    from baselines.shared_norms import SharedBatchNorm  # imports torch's compiler, which takes seconds

    for module in model.modules():
        if type(module) is TokenBatchNorm:
            module.__class__ = SharedBatchNorm


def part_batch_norms(model: nn.Module) -> None:
    if not dist.is_initialized():  # then nothing was joined
        return
    from baselines.shared_norms import SharedBatchNorm

    for module in model.modules():
        if type(module) is SharedBatchNorm:
            module.__class__ = TokenBatchNorm  # pyright: ignore[reportAttributeAccessIssue]


@torch.no_grad()
def even_out(model: nn.Module, world: World) -> None:
    """Gives all processes the mean of what their models observed in the batch: statistics, ranges."""
    if world.size == 1:
        return
    buffers = {name: value for name, value in model.named_buffers() if value.is_floating_point()}
    for name, value in world.mean(buffers).items():
        buffers[name].copy_(value)
