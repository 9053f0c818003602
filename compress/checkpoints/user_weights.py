"""The weights of a file for a model of the user's code, out of whatever training wraps around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from baselines.errors import InputError
from compress.importers import Content, Hints
from compress.importers.choice import Chooser
from compress.importers.state_dict import extract_state_dict
from compress.importers.weights import format_names, format_shape
from compress.importers.wrappers import is_apart, is_measure, note_left_out, select_own

if TYPE_CHECKING:
    from compress.checkpoints.user_models import Wrapped

PREFIXES = ("module.", "_orig_mod.", "model.")  # of names, as DistributedDataParallel, compiling and Lightning leave
COUNTER = ".num_batches_tracked"  # which older files do not have, and no answer needs


def match_weights(content: Content, model: Wrapped, hints: Hints) -> tuple[dict[str, Tensor], list[str], str]:
    """The state that a file holds for a model, by the names of `model`; notes on it; which of several models it is.

    Raises:
        InputError: it lacks tensors, has others, or of other shapes.
    """
    wanted = model.module.state_dict()
    chooser = Chooser(content.path, hints)
    tensors, left = select_weights(extract_state_dict(content, chooser).tree, wanted, chooser)
    chooser.check_found()
    tensors |= {name: value for name, value in wanted.items() if name.endswith(COUNTER) and name not in tensors}
    misfit = f"{content.path} does not fit --model {model.config.factory}:"
    for what, names in (("lacks", wanted.keys() - tensors.keys()), ("also holds", tensors.keys() - wanted.keys())):
        if names:
            raise InputError(f"{misfit} it {what} {format_names(sorted(names))}; give weights of that very model")
    for name, value in tensors.items():
        if value.shape != wanted[name].shape:
            sizes = f"{format_shape(value.shape)} and not {format_shape(wanted[name].shape)}"
            raise InputError(f"{misfit} {name} is {sizes}; let the factory make a model of its size")
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"{content.path}: {name} holds values that are not finite; fetch it again")
    state = {f"module.{name}": tensors[name].to(value.dtype) for name, value in wanted.items()}
    return state, [*chooser.notes, *note_left_out(left)], "; ".join(chooser.notes)


def select_weights(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], chooser: Chooser
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a model without what stands in front of its names, and names of those left out beside it.

    Left out are other models, and what is named as losses and metrics are. All else stays, and will not fit.
    """
    names = [name for name in wanted if not name.endswith(COUNTER)]
    ends = [name.removesuffix(names[0]) for name in tensors if names and name.endswith(names[0])]
    prefixes = [end for end in ends if end.endswith(".") or not end]
    prefixes = [prefix for prefix in prefixes if all(prefix + name in tensors for name in names)]
    if not prefixes:
        return _strip_prefixes(tensors, wanted), []
    owned = {prefix: select_own(tensors, prefix, prefixes) for prefix in prefixes}
    chosen = chooser.choose({prefix.rstrip("."): list(held.values()) for prefix, held in owned.items()})
    prefix = next(each for each in prefixes if each.rstrip(".") == chosen)
    held = {name.removeprefix(prefix): value for name, value in owned[prefix].items()}
    measures = [name for name in held if name not in wanted and is_measure(name)]
    models = {name for each in owned.values() for name in each}
    beside = {name: value for name, value in tensors.items() if name not in models}
    unknown = {name: value for name, value in beside.items() if not is_apart(name)}
    kept = {name: value for name, value in held.items() if name not in measures}
    return kept | unknown, [*measures, *(name for name in beside if name not in unknown)]


def _strip_prefixes(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without what trainings put in front of all their names."""
    while prefix := next((each for each in PREFIXES if all(name.startswith(each) for name in tensors)), None):
        if all(name.startswith(prefix) for name in wanted):
            break
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return dict(tensors)
