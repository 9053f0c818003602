"""Several processes that train one model, as `torchrun` starts them."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class World:
    """The processes of a training, of which this is number `rank`."""

    rank: int = 0
    size: int = 1

    def part(self, total: int) -> slice:
        """This process's share of `total` things: whole pairs, and as many as the others have, as far as they go."""
        each = -(-total // self.size)
        each += each % 2 if self.size > 1 else 0
        return slice(min(self.rank * each, total), min((self.rank + 1) * each, total))

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of `value` over all processes."""
        return value

    def mean(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The mean over all processes of each of `values`."""
        return values


ALONE = World()
