"""Weights rounded up or down such that the errors of a layer's output cancel.

Each column of a weight matrix is rounded to the nearest level in turn, and the columns that are still to come take up
what that did to the outputs, as far as inputs go together (GPTQ, Frantar et al. 2023, arXiv 2210.17323, eq. 2 and 3 and
its Cholesky form).

Legend: R rows, I inputs and O outputs of a layer.
"""

import torch
from torch import Tensor

from compress.quantization.operators import round_weight

BLOCK = 64  # columns after which the others take up what those did, in one product
WIDEST = 8192  # inputs; beyond, a matrix of inputs times inputs takes more memory and time than the rounding is worth
DAMPING = 0.01  # of the mean of the diagonal, so that it can be inverted


def reconstruct(weight_OI: Tensor, scale_O: Tensor, x_RI: Tensor) -> Tensor:
    """Weights that are multiples of their channel's scale, such that `x @ result.T` is near `x @ weight.T`.

    No channel ends farther from it than with each weight rounded to the nearest, as those of layers with more than
    WIDEST inputs are.

    Args:
        x_RI: inputs as the layer will see them.
    """
    if weight_OI.shape[1] > WIDEST:
        return round_weight(weight_OI, scale_O)
    x_RI = x_RI / x_RI.abs().max().clamp(min=1e-30)  # the products of large inputs overflow
    products = (x_RI.t() @ x_RI).double() / len(x_RI)
    diagonal = products.diagonal()
    damping, dead = DAMPING * diagonal.mean(), diagonal == 0
    products[dead, dead] = 1.0
    diagonal += damping
    order = diagonal.argsort(descending=True)  # what matters most is rounded while most others can still make up for it
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(products[order][:, order]))
    factor = torch.linalg.cholesky(inverse, upper=True).to(weight_OI.dtype)
    left = weight_OI[:, order]
    for start in range(0, left.shape[1], BLOCK):
        end = min(start + BLOCK, left.shape[1])
        block, errors = left[:, start:end], torch.empty_like(left[:, start:end])
        for column in range(end - start):
            row = factor[start + column, start + column : end]
            near = round_weight(block[:, [column]], scale_O)
            errors[:, [column]] = (block[:, [column]] - near) / row[0]
            block[:, column:] -= errors[:, [column]] * row
            block[:, [column]] = near
        left[:, end:] -= errors @ factor[start:end, end:]
    found = torch.empty_like(left)
    found[:, order] = left
    nearest = round_weight(weight_OI, scale_O)
    errors_O = [(x_RI @ (each - weight_OI).t()).square().mean(0) for each in (found, nearest)]
    return torch.where((errors_O[0] <= errors_O[1])[:, None], found, nearest)  # with few inputs little can make up
