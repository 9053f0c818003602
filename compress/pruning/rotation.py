"""The same model in a basis in which the first dimensions of each head carry the most.

Queries are multiplied by keys, and values by the output projection: an invertible map can be inserted into either
product, absorbed by one weight, its inverse by the other, without changing the result. The map chosen here makes the
first dimensions the principal ones of the attention scores, and of what the values of a head add to the tokens, on
calibration images (Eckart and Young 1936). Removing the last dimensions is then a low-rank approximation.

Legend: D width, H heads, K width of queries and keys in a head, V of values.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from baselines.vit import Attention, VisionTransformer
from compress.pruning.importance import AT_ONCE, add_sums, list_blocks, watch_blocks

DAMPING = 1e-4  # of the mean variance: directions that images hardly use


@torch.no_grad()
def rotate(model: VisionTransformer, batches: Sequence[Tensor]) -> VisionTransformer:
    """A copy that gives the same answers. Queries and keys that are normalized stay as they are.

    Args:
        batches: normalized images, each (B, C, height, width), on the device of the model.
    """
    made = copy.deepcopy(model).eval()
    sums: list[list[Tensor]] = []
    with watch_blocks(made) as seen:
        for images in (part for each in batches for part in each.split(AT_ONCE)):
            seen.clear()
            made(images)
            new = [_sum_products(block.attn, row) for block, row in zip(list_blocks(made), seen, strict=True)]
            sums = add_sums(sums, new)
    for block, (q_HKK, k_HKK, out_HVV) in zip(list_blocks(made), sums, strict=True):
        if not model.config.qk_norm:
            _rotate_queries(block.attn, q_HKK, k_HKK)
        _rotate_values(block.attn, out_HVV)
    return made


def _sum_products(attn: Attention, values: list[Tensor]) -> list[Tensor]:
    """Of queries, of keys without what they have in common in an image, and of what `proj` gets; each by head."""
    q, k, _ = (x.detach().double() for x in attn.split_heads(values[1]))
    k = k - k.mean(2, keepdim=True)  # the same for all keys: softmax takes no notice
    out = values[2].detach().double().unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    return [(x.mT @ x).sum(0) for x in (q, k, out)]


def _rotate_queries(attn: Attention, q_HKK: Tensor, k_HKK: Tensor) -> None:
    root_q, back_q = _split_root(q_HKK)
    root_k, back_k = _split_root(k_HKK)
    left, middle, right = torch.linalg.svd(root_q @ root_k)
    scale = middle.sqrt()[:, :, None]
    q_rows, k_rows = slice(0, attn.qk_width), slice(attn.qk_width, 2 * attn.qk_width)
    _map_rows(attn, q_rows, scale * left.mT @ back_q)
    _map_rows(attn, k_rows, scale * right @ back_k)


def _rotate_values(attn: Attention, out_HVV: Tensor) -> None:
    proj_HDV = attn.proj.weight.double().unflatten(1, (attn.heads, -1)).transpose(0, 1)
    root, back = _split_root(out_HVV)
    _, _, right = torch.linalg.svd(proj_HDV @ root, full_matrices=attn.proj.out_features < root.shape[-1])
    _map_rows(attn, slice(2 * attn.qk_width, None), right @ back)
    attn.proj.weight.copy_((proj_HDV @ root @ right.mT).transpose(0, 1).flatten(1))


def _split_root(gram_HKK: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric square roots of damped Gram matrices, and their inverses, scaled to a mean variance of 1."""
    values, vectors = torch.linalg.eigh(gram_HKK)
    mean = values.mean(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    root = (values.clamp(min=0) / mean + DAMPING).sqrt()[:, None]
    return vectors * root @ vectors.mT, vectors / root @ vectors.mT


def _map_rows(attn: Attention, rows: slice, map_HKK: Tensor) -> None:
    """Multiplies the rows of each head, weights and biases, from the left."""
    for value in (attn.qkv.weight, attn.qkv.bias):
        part = value[rows].double().reshape(attn.heads, map_HKK.shape[-1], -1)
        value[rows] = (map_HKK @ part).reshape(value[rows].shape).to(value.dtype)
