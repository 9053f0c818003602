"""What each layer alone does to the answers of a model when it is in integers.

Calibration writes rounding into weights and biases, where errors are to cancel; a layer that is switched back to float
keeps what was written. So each layer is put, alone, into a second copy of the model whose weights are whole.

Legend: n images, C classes.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.progress import progress_bar
from compress.quantization.calibration import rounding_off
from compress.quantization.linear import quantized_layers

MOST = 150.0  # dB of signal to noise that are told apart; float32 holds no more


@dataclass(frozen=True)
class Sensitivity:
    """What one layer in integers does to the logits, everything else being float."""

    name: str
    sqnr_db: float  # of the logits; the lower, the more harmful
    share: float  # of the weights of all layers in integers


def rank_layers(quantized: nn.Module, whole: nn.Module, images: list[Tensor]) -> list[Sensitivity]:
    """The integer layers of a model, the most harmful first, at one pass over the images for each.

    Both models are as they were afterwards.

    Args:
        quantized: calibrated, not packed.
        whole: the same model, calibrated on the same images with neither `reconstruct` nor `correct_bias`.
        images: normalized, each (B, channels, height, width), on the device of the models.
    """
    layers = quantized_layers(quantized)
    weights = sum(layer.weight.numel() for layer in layers.values())
    found = []
    with rounding_off(whole), progress_bar("ranking layers", len(layers), 0) as advance:
        wanted = compute_logits(whole, images)
        for name, layer in layers.items():
            own = whole.get_submodule(name)
            try:
                whole.set_submodule(name, layer)
                got = compute_logits(whole, images)
            finally:
                whole.set_submodule(name, own)
            found.append(Sensitivity(name, sqnr_db(wanted, got), layer.weight.numel() / weights))
            advance(name)
    return sorted(found, key=lambda each: each.sqnr_db)


@torch.inference_mode()
def compute_logits(model: nn.Module, images: Iterable[Tensor]) -> Tensor:
    """Answers to all images (n, C), on the CPU."""
    return torch.cat([model(batch).cpu() for batch in images])


def sqnr_db(wanted: Tensor, got: Tensor) -> float:
    """Power of what is wanted over that of the error, in dB, at most `MOST`."""
    signal = wanted.double().square().sum().item()
    noise = (got.double() - wanted.double()).square().sum().item()
    if noise == 0:
        return MOST
    return min(10 * math.log10(signal / noise), MOST) if signal else -math.inf
