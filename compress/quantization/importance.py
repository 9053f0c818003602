"""How much the logits mind an error: their gradient by the values inside a model.

To first order an error `e` of one value changes the logits by `g e`, where g is their gradient by that value. The sum
of g squared over all logits is, on average, the square of the gradient of `signs @ logits`, with signs that are 1 or -1
at random (Hutchinson's estimator, 1990). So weighed, an error counts for what it does to the answers: a class token
that all others listen to, of which there is one among hundreds, or a channel that the next weights make large. The
squared error of the values themselves takes such outliers for rare, and clips them.

Legend: B images, R rows (tokens of all images), I inputs of a layer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = 1024  # at a time, of which all that a gradient needs is kept
FLOOR = 0.01  # weight of what the logits do not mind at all, where the mean is 1

Note = Callable[[str, Tensor, Tensor | None, Tensor | None], None]


@dataclass(frozen=True)
class Rows:
    """Some inputs of a layer (R, I), and how much the logits mind an error in each row of its output (R,)."""

    x: Tensor
    weight: Tensor

    @staticmethod
    def none(like_OI: Tensor) -> "Rows":
        """Of a layer that is never run."""
        return Rows(like_OI.new_empty(0, like_OI.shape[1]), like_OI.new_empty(0))

    @staticmethod
    def join(parts: "Sequence[Rows]") -> "Rows":
        return Rows(torch.cat([each.x for each in parts]), torch.cat([each.weight for each in parts]))

    def thin(self, count: int) -> "Rows":
        """About as many of them."""
        step = max(len(self.x) // count, 1)
        return Rows(self.x[::step], self.weight[::step])


def watch_values(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    batches: Sequence[Tensor],
    note: Note,
    *,
    weighed: int,
    at_once: int = 1,
) -> None:
    """Runs a model, in evaluation mode, on images, and says what goes through some of its modules.

    Args:
        batches: normalized images, each (B, C, height, width), on the device of the model.
        note: takes the name of a module, its input, and how much the logits mind an error of each value in its input
            and its output, of their shapes: squared gradients. None for images that are not weighed.
        weighed: how many images, from the first on, gradients are taken of.
        at_once: how many of those are run together.
    """
    if not modules:
        return
    generator = torch.Generator().manual_seed(0)
    with _watch(modules) as seen:
        for images in batches:
            for part in images[:weighed].split(at_once) if weighed > 0 else ():
                with torch.inference_mode(False), torch.enable_grad():
                    logits = model(part.clone().requires_grad_())
                drawn = torch.randint(2, logits.shape, generator=generator)
                signs = drawn.to(logits.device, logits.dtype, non_blocking=True) * 2 - 1
                ends = [end for _, x, y in seen for end in (x, y)]
                found = torch.autograd.grad(logits, ends, signs, allow_unused=True)
                for (name, x, y), g_x, g_y in zip(seen, found[::2], found[1::2], strict=True):
                    note(name, x.detach(), _square(g_x, x), _square(g_y, y))
                seen.clear()
            if len(rest := images[max(weighed, 0) :]):
                with torch.no_grad():
                    model(rest)
                for name, x, _ in seen:
                    note(name, x, None, None)
                seen.clear()
            weighed -= len(images)


@contextmanager
def _watch(modules: Mapping[str, nn.Module]) -> Iterator[list[tuple[str, Tensor, Tensor]]]:
    """A list that takes the name, the input and the output of each of the modules, whenever it is run."""
    seen: list[tuple[str, Tensor, Tensor]] = []

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        return lambda _module, inputs, output: seen.append((name, inputs[0], output))

    hooks = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for each in hooks:
            each.remove()


def _square(gradient: Tensor | None, like: Tensor) -> Tensor:
    if gradient is None:  # nothing that the logits hang on
        return torch.zeros_like(like, dtype=torch.float32, requires_grad=False)
    return gradient.float().square().nan_to_num_(0.0, 0.0, 0.0)


def even_out(weight: Tensor) -> Tensor:
    """Weights with a mean of 1, none of which is 0."""
    mean = weight.mean()
    relative = torch.where(mean > 0, weight / mean, 1.0)
    return (relative + FLOOR) / (1 + FLOOR)


def sample_rows(x_RI: Tensor, weight_R: Tensor, count: int) -> Rows:
    """As many rows, half of them for their weight and half for their number; expected sums are those of all rows.

    Args:
        weight_R: with a mean of 1.
    """
    if count >= len(x_RI):
        return Rows(x_RI, weight_R)
    share_R = (1 + weight_R) / 2  # how often a row is expected, up to a factor
    ends_R = share_R.double().cumsum(0)
    places = (torch.arange(count, device=x_RI.device) + 0.5) * ends_R[-1] / count
    chosen = torch.searchsorted(ends_R, places).clamp(max=len(x_RI) - 1)
    return Rows(x_RI[chosen], (weight_R / share_R)[chosen])
