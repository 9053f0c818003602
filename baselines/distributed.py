"""Several processes that train one model, as `torchrun` starts them.

A process alone needs nothing of `torch.distributed`: all that is asked of `ALONE` answers at once.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from baselines.errors import InputError

WAIT = timedelta(hours=2)  # for a process that still works, say on a download; one that ended is noticed at once
ASK_S = 5  # seconds to reach the launcher
Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """The processes of a training, of which this is number `rank`, and number `local` on its machine.

    The methods are to be called by all processes, in the same order.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    def part(self, total: int) -> slice:
        """This process's share of `total` things: whole pairs, and as many as the others have, as far as they go."""
        each = -(-total // self.size)
        each += each % 2 if self.size > 1 else 0
        return slice(min(self.rank * each, total), min((self.rank + 1) * each, total))

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of `value` over all processes, the same bits in each; without a gradient."""
        value = value.detach()
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def mean(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The mean over all processes of each of `values`, float32; without gradients."""
        if self.size == 1 or not values:
            return {name: value.detach() for name, value in values.items()}
        flat = self.sum(torch.cat([value.detach().float().flatten() for value in values.values()])) / self.size
        parts = flat.split([value.numel() for value in values.values()])
        return {name: part.view_as(value) for (name, value), part in zip(values.items(), parts, strict=True)}

    def share(self, make: Callable[[], Value]) -> Value:
        """What `make` gives in process 0, in all of them; its InputError is raised in all of them, too."""
        if self.size == 1:
            return make()
        answer: list[object] = [None, None]
        if self.rank == 0:
            try:
                answer[0] = make()
            except InputError as error:
                answer[1] = error
        dist.broadcast_object_list(answer)
        if isinstance(answer[1], InputError):
            raise answer[1]
        return answer[0]  # pyright: ignore[reportReturnType]

    def in_turn(self, make: Callable[[], Value]) -> Value:
        """What `make` gives here, where the first to call it prepares files for the others.

        Process 0 is first, then one of every other machine, then the rest.
        """
        turn = 0 if self.rank == 0 else 1 if self.local == 0 else 2
        made: list[Value] = []
        for now in range(3 if self.size > 1 else 1):
            if now == turn:
                made.append(make())
            self.sum(torch.zeros(()))  # nobody goes on before all have come here
        return made[0]


ALONE = World()


def join(device: torch.device) -> tuple[World, torch.device]:
    """Meets the other processes.

    Returns:
        All of them, and the device of this one: of several GPUs its own.

    Raises:
        InputError: there are fewer GPUs on this machine than processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE, device
    world = World(int(os.environ["RANK"]), size, int(os.environ["LOCAL_RANK"]))
    if device.type == "cuda":
        if torch.cuda.device_count() <= world.local:
            raise InputError(
                f"torchrun started {os.environ['LOCAL_WORLD_SIZE']} processes on this machine, which has "
                f"{torch.cuda.device_count()} CUDA devices; give --nproc-per-node {torch.cuda.device_count()}"
            )
        device = torch.device("cuda", world.local)
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=WAIT)
    return world, device


def leave() -> None:
    """Parts from the other processes, when all went well."""
    if dist.is_initialized():
        dist.destroy_process_group()


def lost(error: BaseException) -> bool:
    """Whether an error says that another process is gone, or answers no more."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "NCCL"))


def speaks() -> bool:
    """Whether this process is the first of its training to say why it ends; asked once, for all would say the same."""
    try:
        store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=ASK_S),
        )
        return store.add(f"said why it ends, start {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", 1) == 1
    except (KeyError, RuntimeError):  # no launcher to ask any more
        return True
