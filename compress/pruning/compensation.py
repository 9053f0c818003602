"""The Linear layers behind removed structures are refitted to compensate for them, without training.

What is kept correlates with what was removed. So weights and biases of the next layers are refitted by least squares on
calibration images: given the inputs of the pruned model, their outputs are as close as possible to those of the
original. The fit is damped towards the present weights (ridge), sums are kept in float64, and blocks are done in order,
so that each also compensates for errors before it. This is the update of the Optimal Brain Surgeon (Hassibi and Stork
1993) for whole structures.

Legend: B images, N tokens, D width, I inputs and O outputs of a layer, R rows (tokens of all images).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from baselines.errors import InputError
from baselines.vit import Block, VisionTransformer
from compress.pruning.structure import Choice

DAMPING = 1e-3  # of the mean of the diagonal of the Gram matrix


@torch.no_grad()
def compensate(small: VisionTransformer, dense: VisionTransformer, choice: Choice, batches: Sequence[Tensor]) -> None:
    """Refits the layers of `small`, `dense` cut down to `choice`, so that its output is close to that of `dense`.

    Args:
        batches: normalized images, each (B, C, height, width), on the device of both models.
    """
    dim_D = choice.dim_D.to(batches[0].device)
    narrower, index = len(dim_D) < dense.config.dim, 0
    before = [dense.embed(images) for images in batches]
    now = [small.embed(images) for images in batches]
    for place, block in enumerate(dense.encoder.blocks):
        assert isinstance(block, Block)
        between, after = run_halves(block, before)
        if place in choice.blocks:
            fitted = small.encoder.blocks[index]
            assert isinstance(fitted, Block)
            if narrower:
                _fit_inputs(fitted, block, place, choice, before, now)
            now = fit_branch(
                fitted.norm1, fitted.attn, fitted.attn.proj, fitted.scale1, now, [x[..., dim_D] for x in between]
            )
            if narrower:
                kept = choice.blocks[place].mlp_M.to(dim_D.device)
                targets = [block.mlp.fc1(block.norm2(x))[..., kept] for x in between]
                refit(fitted.mlp.fc1, [fitted.norm2(x) for x in now], targets)
            now = fit_branch(
                fitted.norm2, fitted.mlp, fitted.mlp.fc2, fitted.scale2, now, [x[..., dim_D] for x in after]
            )
            index += 1
        before = after


def run_halves(block: Block, inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Tokens between the halves of a block, and after it."""
    between: list[Tensor] = []

    def note(x: Tensor, _q: Tensor, _k: Tensor) -> Tensor:
        between.append(x)
        return x

    return between, [block(x, between=note) for x in inputs]


def fit_branch(
    norm: nn.Module,
    branch: nn.Module,
    last: nn.Linear,
    scale: Tensor | None,
    now: list[Tensor],
    wanted: list[Tensor],
) -> list[Tensor]:
    """Fits the last layer of a branch so that the tokens behind it (B, N, D) are those of the model as it was."""
    inputs = [_capture(last, lambda x=x: branch(norm(x))) for x in now]
    factor = 1.0 if scale is None else scale
    targets = [(aim - x) / factor for aim, x in zip(wanted, now, strict=True)]
    refit(last, inputs, targets)
    return [x + last(each) * factor for x, each in zip(now, inputs, strict=True)]


def _fit_inputs(
    fitted: Block, block: Block, place: int, choice: Choice, before: list[Tensor], now: list[Tensor]
) -> None:
    """Fits queries, keys and values, whose inputs have lost channels."""
    kept, sizes = choice.blocks[place], block.attn
    qk_dim, v_dim = sizes.qk_width // sizes.heads, sizes.v_width // sizes.heads
    qk = (kept.heads_H[:, None] * qk_dim + kept.qk_HK).flatten()
    v = 2 * sizes.qk_width + (kept.heads_H[:, None] * v_dim + kept.v_HV).flatten()
    rows = torch.cat([qk, sizes.qk_width + qk, v]).to(now[0].device)
    factor = torch.ones(len(rows), device=now[0].device)
    factor[: len(qk)] = (kept.sizes.qk_dim / qk_dim) ** 0.5
    targets = [block.attn.qkv(block.norm1(x))[..., rows] * factor for x in before]
    refit(fitted.attn.qkv, [fitted.norm1(x) for x in now], targets)


def _capture(layer: nn.Module, call: Callable[[], object]) -> Tensor:
    """The input that a layer gets while `call` runs."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        call()
    finally:
        hook.remove()
    return seen[0]


@torch.no_grad()
def refit(layer: nn.Linear, inputs: Sequence[Tensor], targets: Sequence[Tensor], damping: float = DAMPING) -> None:
    """Weights and bias with which a layer's outputs are nearest to `targets`, never farther than they were.

    Args:
        inputs: each (..., I).
        targets: each (..., O).
        damping: of changes, as a share of the mean square of an input.
    """
    wide = layer.in_features + 1
    gram_II = torch.zeros(wide, wide, dtype=torch.float64, device=layer.weight.device)
    missing_IO = gram_II.new_zeros(wide, layer.out_features)
    for x, target in zip(inputs, targets, strict=True):
        x_RI = torch.nn.functional.pad(x.flatten(0, -2).double(), (0, 1), value=1.0)
        gram_II += x_RI.mT @ x_RI
        missing_IO += x_RI.mT @ (target - layer(x)).flatten(0, -2).double()
    change_IO = solve_damped(gram_II, missing_IO, damping)
    weight, bias = layer.weight.clone(), layer.bias.clone()
    layer.weight.add_(change_IO[:-1].mT.to(weight.dtype))
    layer.bias.add_(change_IO[-1].to(bias.dtype))
    made_IO = torch.cat([(layer.weight.double() - weight.double()).mT, (layer.bias.double() - bias.double())[None]])
    if not (made_IO * (gram_II @ made_IO - 2 * missing_IO)).sum() <= 0:  # of the squared error; NaN counts as more
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)


def solve_damped(gram_II: Tensor, right_IO: Tensor, damping: float) -> Tensor:
    """(gram + damping * its mean diagonal)^-1 @ right, with more damping where that is not enough.

    Raises:
        InputError: sums are not finite, which no damping makes invertible.
    """
    if not (gram_II.isfinite().all() and right_IO.isfinite().all()):
        raise InputError(
            "activations of the model are not finite on the calibration images; check its weights and them"
        )
    mean = gram_II.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    while True:
        eye = torch.eye(len(gram_II), dtype=gram_II.dtype, device=gram_II.device)
        factor_II, failed = torch.linalg.cholesky_ex(gram_II + damping * mean * eye)
        if not failed:
            return torch.cholesky_solve(right_IO, factor_II)
        damping *= 10
