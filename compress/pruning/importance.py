"""Importance scores of the structures of a model, comparable within one kind and block.

- taylor: first-order change of the output when a gate on the structure closes: activation times gradient, summed over
  everything that the gate multiplies, squared, mean over images (Molchanov et al. 2019, arXiv 1906.10771). No labels
  are needed: each class is weighted by the probability that the model gives it. The mean square is then the Fisher
  information of the gate, and half of it the divergence to second order.
- weight: the norm of the weights that make the structure, times that of those that read it.
- activation: the mean square of what the structure adds to the output of the next Linear layer.
- reconstruction: the order in which structures are removed one by one, each time the one whose loss the next Linear
  layer, refitted to the rest, compensates best (Optimal Brain Surgeon, Hassibi and Stork 1993).

Legend: B images, N tokens, D width, H heads, K width of queries and keys in a head, V of values, M width inside the
        MLP, I inputs and O outputs of a layer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from baselines.vit import Block, VisionTransformer
from compress.pruning.compensation import solve_damped

Importance = Literal["taylor", "weight", "activation", "reconstruction"]
DAMPING = 1e-2  # of Gram matrices that are inverted
AT_ONCE = 64  # images of which all that a gradient needs is kept


@dataclass
class BlockScores:
    """Of the structures of one block, float64; the largest stay."""

    heads_H: Tensor
    qk_HK: Tensor
    v_HV: Tensor
    mlp_M: Tensor


@dataclass
class Scores:
    """Of all structures of a model, on the CPU."""

    blocks: list[BlockScores]
    dim_D: Tensor


def score(model: VisionTransformer, batches: Sequence[Tensor], importance: Importance) -> Scores:
    """Scores of all structures; `weight` looks at no images.

    Args:
        batches: normalized images, each (B, C, height, width), on the device of the model.
    """
    model.eval()
    if importance == "weight":
        return score_weights(model)
    chunks = [part for images in batches for part in images.split(AT_ONCE)]
    if importance == "taylor":
        return _score_gates(model, chunks)
    return _score_outputs(model, chunks, importance)


@torch.no_grad()
def score_weights(model: VisionTransformer) -> Scores:
    """`weight` of all structures."""
    found, dim_D = [], torch.zeros(model.config.dim, dtype=torch.float64)
    for block in list_blocks(model):
        attn = block.attn
        q_HK, k_HK, v_HV = (each.flatten(2).square().sum(2) for each in _split_rows(attn.qkv.weight, block))
        out_HV = attn.proj.weight.double().cpu().square().sum(0).unflatten(0, (attn.heads, -1))
        read_M, made_M = block.mlp.fc2.weight.double().cpu().square().sum(0), _squares(block.mlp.fc1)
        found.append(
            BlockScores((v_HV * out_HV).sum(1) * (q_HK * k_HK).sum(1), q_HK * k_HK, v_HV * out_HV, read_M * made_M)
        )
        for norm, reads, writes in ((block.norm1, attn.qkv, attn.proj), (block.norm2, block.mlp.fc1, block.mlp.fc2)):
            gain_D = norm.get_parameter("weight").double().cpu().square()
            dim_D += gain_D * reads.weight.double().cpu().square().sum(0) + _squares(writes)
    return Scores(found, dim_D)


def _score_gates(model: VisionTransformer, chunks: list[Tensor]) -> Scores:
    """`taylor` of all structures."""
    blocks, generator = list_blocks(model), torch.Generator().manual_seed(0)
    sums: list[list[Tensor]] = []
    dim_D = torch.zeros(model.config.dim, dtype=torch.float64)
    with watch_blocks(model) as seen:
        for images in chunks:
            seen.clear()
            with torch.inference_mode(False), torch.enable_grad():
                logits = model(images.clone().requires_grad_()).double()
                believed = logits.detach().softmax(1).sqrt()
                signs = torch.randint(2, logits.shape, generator=generator).to(logits) * 2 - 1
                answers = (believed * signs * logits.log_softmax(1)).sum()
                values = [each for row in seen for each in row]
                grads = torch.autograd.grad(answers, values, allow_unused=True)
            gates = [_gate(value.detach(), grad) for value, grad in zip(values, grads, strict=True)]
            rows = [gates[i : i + len(WATCHED)] for i in range(0, len(gates), len(WATCHED))]
            dim_D += torch.stack([row[0] + row[3] for row in rows]).sum(0).square().sum(0)
            new = [_gate_block(block, row) for block, row in zip(blocks, rows, strict=True)]
            sums = add_sums(sums, new)
    return Scores([BlockScores(*each) for each in sums], dim_D)


def _gate(value: Tensor, grad: Tensor | None) -> Tensor:
    """Activations and gradients (B, N, I) -> what a gate on each column changes in each image, (B, I) float64."""
    if grad is None:
        return value.new_zeros(value.shape[0], value.shape[-1], dtype=torch.float64).cpu()
    return (value * grad).sum(1).double().cpu()


def _gate_block(block: Block, gates: list[Tensor]) -> list[Tensor]:
    """Gates of one block, as `WATCHED` lists them, (B, I) -> those of its structures."""
    _, qkv_BI, out_BI, _, mlp_BM = gates
    attn = block.attn
    q_BHK = qkv_BI[:, : attn.qk_width].unflatten(1, (attn.heads, -1))
    v_BHV = out_BI.unflatten(1, (attn.heads, -1))
    return [each.square().sum(0) for each in (v_BHV.sum(2), q_BHK, v_BHV, mlp_BM)]


@torch.no_grad()
def _score_outputs(model: VisionTransformer, chunks: list[Tensor], importance: Importance) -> Scores:
    """`activation` or `reconstruction` of all structures."""
    blocks = list_blocks(model)
    grams: list[list[Tensor]] = []
    dim_D = torch.zeros(model.config.dim, dtype=torch.float64)
    with watch_blocks(model) as seen:
        for images in chunks:
            seen.clear()
            model(images)
            new = [_sum_grams(block, row) for block, row in zip(blocks, seen, strict=True)]
            grams = add_sums(grams, new)
            for block, row in zip(blocks, seen, strict=True):
                for value, reads in ((row[0], block.attn.qkv), (row[3], block.mlp.fc1)):
                    channels_D = value.double().square().sum((0, 1)).cpu()
                    dim_D += channels_D * reads.weight.double().cpu().square().sum(0)
    judge = _eliminate if importance == "reconstruction" else _energy
    found = []
    for block, (out_II, mlp_MM, qk_HKK) in zip(blocks, grams, strict=True):
        attn, proj_OI = block.attn, block.attn.proj.weight.double().cpu()
        width = attn.v_width // attn.heads
        heads = [slice(head * width, (head + 1) * width) for head in range(attn.heads)]
        if importance == "reconstruction":
            inverse_II = _invert(out_II)
            heads_H = [
                torch.trace(proj_OI[:, h] @ torch.linalg.solve(inverse_II[h, h], proj_OI[:, h].mT)) for h in heads
            ]
        else:
            heads_H = [torch.trace(proj_OI[:, h] @ out_II[h, h] @ proj_OI[:, h].mT) for h in heads]
        ones = torch.ones(1, qk_HKK.shape[1], dtype=torch.float64)
        qk_HK = torch.stack([judge(gram_KK, ones) for gram_KK in qk_HKK])
        v_HV = judge(out_II, proj_OI).unflatten(0, (attn.heads, -1))
        mlp_M = judge(mlp_MM, block.mlp.fc2.weight.double().cpu())
        found.append(BlockScores(torch.stack(heads_H), qk_HK, v_HV, mlp_M))
    return Scores(found, dim_D)


def _sum_grams(block: Block, values: list[Tensor]) -> list[Tensor]:
    """Sums over images and tokens: of what `proj` and `fc2` get, and of the products that scores are made of."""
    _, qkv, out, _, mlp = (each.detach() for each in values)
    q_BHNK, k_BHNK, _ = block.attn.split_heads(qkv)
    q_BHKK, k_BHKK = (x.double().mT @ x.double() for x in (q_BHNK, k_BHNK))
    sums = [x.flatten(0, 1).double().mT @ x.flatten(0, 1).double() for x in (out, mlp)]
    return [each.cpu() for each in (*sums, (q_BHKK * k_BHKK).sum(0))]


def _energy(gram_II: Tensor, weight_OI: Tensor) -> Tensor:
    return gram_II.diagonal() * weight_OI.square().sum(0)


def _eliminate(gram_II: Tensor, weight_OI: Tensor) -> Tensor:
    """The inputs of a layer leave one by one, those first whose loss the others make up for best -> when each left."""
    inverse_II, weight_OI = _invert(gram_II), weight_OI.clone()
    order_I = torch.zeros(len(gram_II), dtype=torch.float64)
    gone_I = torch.zeros(len(gram_II), dtype=torch.bool)
    for turn in range(len(gram_II)):
        missed_I = weight_OI.square().sum(0) / inverse_II.diagonal().clamp(min=torch.finfo(torch.float64).tiny)
        first = int(missed_I.masked_fill(gone_I, torch.inf).argmin())
        order_I[first], gone_I[first] = turn, True
        row_I = inverse_II[first] / inverse_II[first, first]
        weight_OI -= weight_OI[:, first, None] * row_I
        inverse_II -= inverse_II[:, first, None] * row_I
    return order_I


def _invert(gram_II: Tensor) -> Tensor:
    return solve_damped(gram_II, torch.eye(len(gram_II), dtype=gram_II.dtype), DAMPING)


WATCHED = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc2")  # of a block
INPUTS = ("attn.proj", "mlp.fc2")  # of which the input counts, not the output


@contextmanager
def watch_blocks(model: VisionTransformer) -> Iterator[list[list[Tensor]]]:
    """A list that takes, whenever a block has run, what went through it: as `WATCHED` lists it."""
    seen: list[list[Tensor]] = []

    def hook(name: str, *, first: bool) -> Callable[..., None]:
        def note(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if first:
                seen.append([])
            seen[-1].append(inputs[0] if name in INPUTS else output)

        return note

    hooks = [
        block.get_submodule(name).register_forward_hook(hook(name, first=name == WATCHED[0]))
        for block in model.encoder.blocks
        for name in WATCHED
    ]
    try:
        yield seen
    finally:
        for each in hooks:
            each.remove()


def add_sums(sums: list[list[Tensor]], new: list[list[Tensor]]) -> list[list[Tensor]]:
    """Sums of each block with those of further images; `new` where there are none yet."""
    return [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(sums, new, strict=True)] if sums else new


def list_blocks(model: VisionTransformer) -> list[Block]:
    return [block for block in model.encoder.blocks if isinstance(block, Block)]


def _split_rows(weight: Tensor, block: Block) -> list[Tensor]:
    """Rows (.., I) of queries, keys and values by head, each (H, K, I) float64."""
    attn = block.attn
    parts = weight.double().cpu().split([attn.qk_width, attn.qk_width, attn.v_width])
    return [part.unflatten(0, (attn.heads, -1)) for part in parts]


def _squares(layer: nn.Linear) -> Tensor:
    """Of the weights of each output (O,) float64."""
    return layer.weight.double().cpu().square().sum(1)
