"""The plain alternatives that a compressed model has to beat, added to a bench without being asked for.

- `bf16`: the dense model in bfloat16, where this machine multiplies it in hardware
- `torch.compile` of the fastest dense model, where the compiler it needs is here
- `narrow`: a narrower dense ViT of about the MACs of the first variant that saves some, trained the same way
"""

from collections.abc import Iterator, Sequence

import torch

from baselines.device import fast_bf16
from compress.methods import Bf16, Narrow
from compress.rows import Candidate, Request
from compress.variant import BASELINE, Variant

COMPILED = "torch.compile"


def variants(request: Request, wanted: Sequence[Variant], made: Sequence[Candidate]) -> Iterator[Variant]:
    """Plain variants that are not asked for already.

    Args:
        made: what was asked for, built.
    """
    if not request.plain:
        return
    names, base = {each.name for each in wanted}, wanted[0].base
    bf16 = Variant((Bf16(),), base)
    if bf16.name not in names and bf16_helps(request):
        yield bf16
    saving = next((each for each in made if (share := _share(each, made)) and share < 0.95), None)
    head_start = request.checkpoint is not None or request.config.init is not None or base != BASELINE
    if saving is not None and Narrow.name not in names and not head_start:
        yield Variant((Narrow(macs=round(_share(saving, made) or 1, 3)),))


def compiled(request: Request, each: Variant) -> bool:
    """Whether `torch.compile`, not asked for, takes part with a variant: with the fastest dense one it does.

    One is enough to know what has to be beaten, and compiling takes longer than all the rest of a small bench.
    """
    fastest = [Bf16.name] if bf16_helps(request) else []
    return request.plain and [method.name for method in each.methods] == fastest


def bf16_helps(request: Request) -> bool:
    """Whether a device multiplies bf16 in hardware, and an engine that can is among those asked for."""
    runs_torch = not request.runtimes or any(name.startswith("torch") for name in request.runtimes)
    return runs_torch and any(fast_bf16(torch.device(device)) for device in request.devices)


def _share(each: Candidate, made: Sequence[Candidate]) -> float | None:
    """MACs of a variant at batch 1, as a share of the baseline's."""
    dense = next((other for other in made if not other.built.variant.methods), None)
    return each.cost.executed(1, padded=each.runtime.padded) / dense.cost.dense if dense else None
