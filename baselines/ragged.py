"""Images of one batch that hold different numbers of tokens.

The tokens of all images stand packed, image after image, in one (T, D) tensor, so that everything that works token by
token (LayerNorm, Linear, GELU) costs exactly the tokens there are. Only attention, which mixes the tokens of an image,
needs rectangles for a moment. Images are grouped by length, and each group is padded to its own longest image:
`split` and `join` are one gather each.

Legend: B images, N tokens an image started with, T tokens left in the batch, G images of one group,
        M tokens of the longest of them, S slots of all rectangles together, D any width.
"""

import torch
from torch import Tensor

GROUP_SIZE = 16  # images padded to a common length; fewer calls against less padding (docs/log.md)


class Ragged:
    """Which token of which image each row of a packed (T, D) tensor is.

    Args:
        token_T: position of each token in its image, 0 to N - 1, ascending within the image.
        image_T: image of each token, ascending.
        batch: number of images B, including those with no token left.
    """

    def __init__(self, token_T: Tensor, image_T: Tensor, batch: int):
        self.token_T, self.image_T, self.batch = token_T, image_T, batch
        self.counts_B = token_T.new_zeros(batch).scatter_add(0, image_T, torch.ones_like(image_T))
        self.starts_B = self.counts_B.cumsum(0) - self.counts_B
        self.slot_T: Tensor | None = None  # None where nothing has to move
        self._arrange()

    @classmethod
    def full(cls, batch: int, tokens: int, device: torch.device) -> "Ragged":
        """Every image still has all its tokens."""
        order = torch.arange(batch * tokens, device=device)
        return cls(order % tokens, order // tokens, batch)

    def select(self, rows: Tensor) -> "Ragged":
        """The layout after only the given rows, ascending, are left of the packed tensor."""
        return Ragged(self.token_T.index_select(0, rows), self.image_T.index_select(0, rows), self.batch)

    def split(self, x_TD: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """Packed (T, D) -> rectangles (G, M, D), each with the keys that exist, (G, 1, 1, M) bool, or None for all.

        Empty slots hold finite values that the mask hides.
        """
        if self.slot_T is None:
            return [(x_TD.view(self.batch, -1, x_TD.shape[-1]), None)]
        x_SD = x_TD.index_select(0, self.source_S)
        parts, start = [], 0
        for mask_GM in self.masks:
            group, width = mask_GM.shape
            part = x_SD[start : start + group * width].view(group, width, -1)
            parts.append((part, mask_GM[:, None, None, :]))
            start = start + group * width
        return parts

    def join(self, parts: list[Tensor]) -> Tensor:
        """Rectangles (G, M, D) -> packed (T, D): the inverse of `split`."""
        flat = [part.reshape(-1, part.shape[-1]) for part in parts]
        x_SD = flat[0] if len(flat) == 1 else torch.cat(flat)
        return x_SD if self.slot_T is None else x_SD.index_select(0, self.slot_T)

    def _arrange(self) -> None:
        """Groups images by length and notes where each packed row goes."""
        device = self.counts_B.device
        if torch.compiler.is_exporting():  # a graph cannot hold a number of groups that depends on data: one group
            counts_B, order_B = self.counts_B, torch.arange(self.batch, device=device)
            longest = self.counts_B.max().item()
            torch._check(longest >= 1)
            groups = [(self.batch, longest)]
        else:
            counts_B, order_B = self.counts_B.sort(descending=True)
            lengths = counts_B.tolist()  # waits for the device
            if lengths[0] == lengths[-1]:
                return
            groups = [
                (len(part), max(part[0], 1))
                for part in [lengths[i : i + GROUP_SIZE] for i in range(0, self.batch, GROUP_SIZE)]
            ]
        self.masks, sources, first_slots, image, slot = [], [], [], 0, 0
        for size, width in groups:
            column_M = torch.arange(width, device=device)
            images_G = order_B[image : image + size]
            self.masks.append(column_M < counts_B[image : image + size, None])
            sources.append((self.starts_B[images_G, None] + column_M).flatten())
            first_slots.append(slot + width * torch.arange(size, device=device))
            image, slot = image + size, slot + size * width
        self.source_S = torch.cat(sources).clamp(max=self.token_T.shape[0] - 1)
        slot_B = torch.empty_like(order_B).scatter(0, order_B, torch.cat(first_slots))
        row_T = torch.arange(self.token_T.shape[0], device=device)
        self.slot_T = (slot_B - self.starts_B)[self.image_T] + row_T


def padded_widths(counts_BL: Tensor, group_size: int = GROUP_SIZE) -> Tensor:
    """The width each image is padded to in attention, (B, L), given the tokens it has in each block.

    Args:
        group_size: images padded to a common length; B where a whole batch is one rectangle.
    """
    ordered, order = counts_BL.sort(0, descending=True)
    widths = torch.cat([part[:1].expand_as(part) for part in ordered.split(group_size)])
    return torch.empty_like(counts_BL).scatter(0, order, widths)
