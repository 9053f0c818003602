"""Which variants take part in a bench: those asked for, and the plain alternatives that they have to beat.

- `bf16`: the dense model in bfloat16, where this machine multiplies it in hardware
- `torch.compile` of the fastest dense model, where the compiler it needs is here
- `narrow`: a narrower dense ViT of about the MACs of the first variant that saves some, trained the same way
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from baselines.classifier import Classifier
from baselines.device import fast_bf16
from baselines.errors import InputError
from baselines.vit import VisionTransformer
from compress import variant
from compress.checkpoints import user_models
from compress.evaluate import Candidate
from compress.methods import METHODS, Bf16, Int8, Method, Narrow
from compress.methods.base import check_architecture
from compress.variant import BASELINE, Variant

if TYPE_CHECKING:
    from compress.verbs.bench import Request

COMPILED = "torch.compile"


def list_variants(request: "Request") -> list[Variant]:
    """The baseline, then what was asked for; of a model of the user's code int8, where nothing was.

    Raises:
        InputError: a name that is none, or a method that needs a Vision Transformer.
    """
    config, code = request.config, request.hints.model
    if code is None:
        names, base = config.variants, BASELINE
    else:
        base = user_models.get_base_name(code)
        names = config.variants if "variants" in config.model_fields_set else (Int8.name,)
        if {*base.split("_")} <= {BASELINE, *METHODS}:
            raise InputError(
                f"--model {user_models.shorten_spec(code)}: rows called {base!r} are those of a Vision Transformer; "
                "give the function another name"
            )
    wanted = [variant.parse(name, config.methods, base) for name in (base, *names)]
    for each in wanted if code else ():
        check_architecture(each.methods, user_models.shorten_spec(str(code)))
    return list({each.name: each for each in wanted}.values())


def keep_weights(each: Variant, model: Classifier) -> Variant:
    """The variant that is not fine-tuned, where its methods remove tokens or structures and bring no new weights.

    A model that was given may have seen far more images than are here: fine-tuning it unasked can make it worse.

    Args:
        model: the baseline that was given.
    """
    trained = [method for method in each.methods if method.tuned]
    if not trained or not all(_works_untrained(method, model) for method in trained):
        return each
    kept = [method.model_copy(update={"tune": False}) if method.tuned else method for method in each.methods]
    return Variant(tuple(kept), each.base)


def _works_untrained(method: Method, model: Classifier) -> bool:
    if "tune" not in type(method).model_fields or not isinstance(model, VisionTransformer):
        return False
    return not variant.list_new_weights(model, method)


def add_plain(request: "Request", wanted: Sequence[Variant], made: Sequence[Candidate]) -> Iterator[Variant]:
    """Plain variants that are not asked for already.

    Args:
        made: candidates of what was asked for.
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


def is_compiled(request: "Request", each: Variant) -> bool:
    """Whether `torch.compile`, not asked for, takes part with a variant: with the fastest dense one it does.

    One is enough to know what has to be beaten, and compiling takes longer than all the rest of a small bench.
    """
    fastest = [Bf16.name] if bf16_helps(request) else []
    return request.plain and [method.name for method in each.methods] == fastest


def bf16_helps(request: "Request") -> bool:
    """Whether a device multiplies bf16 in hardware, and an engine that can is among those asked for."""
    runs_torch = not request.runtimes or any(name.startswith("torch") for name in request.runtimes)
    return runs_torch and any(fast_bf16(torch.device(device)) for device in request.options.devices)


def _share(each: Candidate, made: Sequence[Candidate]) -> float | None:
    """MACs of a candidate at batch 1, as a share of the baseline's."""
    dense = next((other.cost for other in made if other.dense and other.cost is not None), None)
    if dense is None or each.cost is None:
        return None
    return each.cost().executed(1, padded=each.runtime.pads_ragged) / dense().dense
