"""Images of one batch that hold different numbers of tokens.

The tokens of all images stand packed, image after image, in one (T, D) tensor, so that everything that works token by
token (LayerNorm, Linear, GELU) costs exactly the tokens there are. Only attention mixes the tokens of an image. Since
those stand together, an image is a view of the packed tensor, and attention goes through the images one by one: nothing
is moved and nothing padded, and on a CPU that measures faster than any batch of rectangles (docs/log.md). An exported
graph cannot hold a number of calls that depends on data: there all images are padded to the longest one.

Legend: B images, N tokens an image started with, T tokens left in the batch, M tokens of the longest image,
        D any width.
"""

from functools import cached_property

import torch
from torch import Tensor


class Ragged:
    """Which token of which image each row of a packed (T, D) tensor is.

    Args:
        token_T: position of each token in its image, 0 to N - 1, ascending within the image.
        image_T: image of each token, ascending.
        batch: number of images B, including those with no token left.
    """

    def __init__(self, token_T: Tensor, image_T: Tensor, batch: int):
        self.token_T, self.image_T, self.batch = token_T, image_T, batch
        self.padded = torch.compiler.is_exporting()

    @classmethod
    def full(cls, batch: int, tokens: int, device: torch.device) -> "Ragged":
        """Every image still has all its tokens."""
        order = torch.arange(batch * tokens, device=device)
        return cls(order % tokens, order // tokens, batch)

    def select(self, rows: Tensor) -> "Ragged":
        """The layout after only the given rows, ascending, are left of the packed tensor."""
        return Ragged(self.token_T.index_select(0, rows), self.image_T.index_select(0, rows), self.batch)

    @cached_property
    def counts_B(self) -> Tensor:
        """Tokens of each image."""
        if self.batch == 1 and not self.padded:
            return self.token_T.new_full((1,), self.token_T.shape[0])
        return self.token_T.new_zeros(self.batch).scatter_add(0, self.image_T, torch.ones_like(self.image_T))

    @cached_property
    def starts_B(self) -> Tensor:
        """Row at which each image begins."""
        return self.counts_B.cumsum(0) - self.counts_B

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each image, on the host: waits for the device."""
        return [self.token_T.shape[0]] if self.batch == 1 else self.counts_B.tolist()

    def split(self, x_TD: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """Packed (T, D) -> rectangles (images, tokens, D), each with the keys that exist, bool, or None for all.

        Images without tokens are left out. Where the mask hides slots, they hold finite values.
        """
        if self.padded:
            mask_BM, rows = self._rectangle()
            part = x_TD.index_select(0, rows).view(self.batch, -1, x_TD.shape[-1])
            return [(part, mask_BM[:, None, None, :])]
        if self.lengths.count(self.lengths[0]) == self.batch:
            return [(x_TD.view(self.batch, -1, x_TD.shape[-1]), None)]
        return [(part[None], None) for part in x_TD.split(self.lengths) if part.shape[0]]

    def join(self, parts: list[Tensor]) -> Tensor:
        """Rectangles (images, tokens, D) -> packed (T, D): the inverse of `split`."""
        flat = [part.reshape(-1, part.shape[-1]) for part in parts]
        if not self.padded:
            return flat[0] if len(flat) == 1 else torch.cat(flat)
        row_T = torch.arange(self.token_T.shape[0], device=self.token_T.device)
        return flat[0].index_select(0, row_T + (self._first_slots() - self.starts_B)[self.image_T])

    def _rectangle(self) -> tuple[Tensor, Tensor]:
        """Which slots of a (B, M) rectangle hold a token, and the packed row of each slot, (B * M,)."""
        column_M = torch.arange(self._longest(), device=self.token_T.device)
        rows = (self.starts_B[:, None] + column_M).flatten().clamp(max=self.token_T.shape[0] - 1)
        return column_M < self.counts_B[:, None], rows

    def _first_slots(self) -> Tensor:
        return self._longest() * torch.arange(self.batch, device=self.token_T.device)

    def _longest(self) -> int:
        longest = self.counts_B.max().item()
        torch._check(longest >= 1)
        return longest  # pyright: ignore[reportReturnType]  # an int, or the exporter's symbol for one


def padded_widths(counts_BL: Tensor) -> Tensor:
    """The width that a graph pads each image of a batch to, (B, L), given the tokens it has in each block."""
    return counts_BL.amax(0, keepdim=True).expand_as(counts_BL)
