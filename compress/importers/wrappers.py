"""The weights of one model among all names of a file: what trainings wrap around it, and keep beside it.

    model.blocks.0...  criterion.weight  val_acc.tp  ema_model.blocks.0...      Lightning
    backbone.blocks.0...  fc.weight  fc.bias                                    a head beside the model
    blocks.0...  head.1.weight  head.1.bias                                     Dropout, Linear

A layout knows its model by a marker; what stands in front of the marker stands in front of all its weights. A Linear
layer alone is a head under any usual name. What lies beside a model is left out, and noted, where it cannot be a part
of it: the model has its head inside, or the name is one of losses, metrics or other models. All else is refused.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from baselines.errors import InputError
from compress.importers.base import UNKNOWN, Content, Layout
from compress.importers.choice import Chooser, find_words
from compress.importers.state_dict import COUNTERS
from compress.importers.weights import format_names

ADAPTERS = ("lora_", "base_layer.", "modules_to_save.", "adapter", "adaptmlp", "ia3_l", "hada_w", "lokr_w", "oft_r")
HEADS = (
    "head", "heads", "classifier", "fc", "linear", "lin", "clf", "cls", "cls_head", "classification_head",
    "linear_classifier", "mlp_head", "head_cls", "out", "output", "logits",
)  # fmt: skip
PROJECTION = "last_layer."  # of DINO's heads, which pretraining alone needs
MEASURES = {"criterion", "criteria", "loss", "losses", "metric", "metrics", "acc", "accuracy", "train", "val", "valid",
            "validation", "test", "auroc", "f1", "precision", "recall", "confmat", "confusion"}  # fmt: skip
BESIDE = MEASURES | {"ema", "teacher", "student", "target", "momentum", "queue", "center", "prototypes", "projector",
                     "projection", "predictor", "decoder", "mixup", "cutmix", "augment", "augmentation", "transform",
                     "transforms", "dino", "ibot", "mask"}  # fmt: skip
SHOWN = 3  # names in a note


@dataclass(frozen=True)
class Found:
    """A model in a file."""

    layout: Layout
    prefix: str  # in front of all its weights
    content: Content  # those weights alone, and its head


def find_model(content: Content, layouts: Sequence[Layout], chooser: Chooser) -> Found | None:
    """The model of a file whose tree is tensors by name; None where it is of no layout.

    Raises:
        InputError: it is an adapter, its head is no Linear layer, something beside it may be a part of it, or nothing
            says which of several models is meant.
    """
    check_adapters(content)
    places = list(find_places(content.tree, layouts))
    if not places:
        return None
    prefixes = [prefix for _, prefix in places]
    owned = {prefix: select_own(content.tree, prefix, prefixes) for prefix in prefixes}
    for prefix, held in owned.items():
        owned[prefix] = {name: value for name, value in held.items() if not is_measure(name.removeprefix(prefix))}
    chosen = chooser.choose({prefix.rstrip("./"): list(owned[prefix].values()) for prefix in prefixes})
    layout, prefix = next(place for place in places if place[1].rstrip("./") == chosen)
    models = set().union(*owned.values())
    apart = tuple(filter(None, (find_apart(each, prefix) for each in prefixes)))
    beside = {name: value for name, value in content.tree.items() if name not in models and not name.startswith(apart)}
    notes: list[str] = []
    own = adopt_head(content, layout, prefix, owned[prefix], beside, notes)
    leave_out(content, layout, prefix, own, beside, notes)
    return Found(layout, prefix, replace(content, tree=own, notes=(*content.notes, *notes)))


def check_adapters(content: Content) -> None:
    """Raises InputError where weights are those of an adapter, or wait for one to be merged into them."""
    for name in content.tree:
        if any(f".{part}" in f".{name}" for part in ADAPTERS):
            raise refuse_adapter(content.path, name)


def refuse_adapter(path: object, name: str) -> InputError:
    return InputError(
        f"{path} holds an adapter ({name:.80}): merge it into its model first (merge_and_unload() of peft) and save "
        "that again; one that cannot be merged comes in as code, with --model"
    )


def find_places(names: Collection[str], layouts: Sequence[Layout]) -> Iterator[tuple[Layout, str]]:
    """Each model: its layout, and what stands in front of all its names. Of one place, the first layout counts."""
    taken: list[str] = []
    for layout in layouts:
        prefixes = find_prefixes(names, layout.marker)
        free = [each for each in prefixes if not any(each.startswith(old) or old.startswith(each) for old in taken)]
        taken += free
        yield from ((layout, prefix) for prefix in free)


def find_prefixes(names: Collection[str], markers: str | tuple[str, ...]) -> list[str]:
    """What stands in front of the first marker that ends any of the names, wherever it does."""
    for marker in (markers,) if isinstance(markers, str) else markers:
        ends = (name.removesuffix(marker) for name in names if name.endswith(marker))
        if found := [prefix for prefix in ends if not prefix or prefix[-1] in "./"]:
            return found
    return []


def find_apart(other: str, prefix: str) -> str | None:
    """What stands in front of another model and of whatever belongs to it: `model.` of `model.backbone.`."""
    return next((each for each in [*reversed(list_parents(other)), other] if not prefix.startswith(each)), None)


def select_own(tree: Mapping[str, Tensor], prefix: str, prefixes: Sequence[str]) -> dict[str, Tensor]:
    """The weights behind a prefix, without those of a model further inside."""
    inner = tuple(each for each in prefixes if each != prefix and each.startswith(prefix))
    return {
        name: value for name, value in tree.items() if name.startswith(prefix) and not name.startswith(inner or "\0")
    }


def is_measure(name: str) -> bool:
    """Whether a tensor is one of a loss or metric, by the first part of its name."""
    return bool(find_words(name.partition(".")[0]) & MEASURES)


def is_apart(name: str) -> bool:
    """Whether a tensor beside a model is no part of it, by its name."""
    return name.rpartition(".")[2] in COUNTERS or bool(find_words(name.rpartition(".")[0]) & BESIDE)


def adopt_head(
    content: Content,
    layout: Layout,
    prefix: str,
    own: dict[str, Tensor],
    beside: dict[str, Tensor],
    notes: list[str],
) -> dict[str, Tensor]:
    """The weights of a model with its head under the name that its layout has for it; takes it out of `beside`.

    Raises:
        InputError: it has two, or one that is more than a Linear layer.
    """
    has_own = any(f"{prefix}{name}.{kind}" in own for name in layout.heads for kind in ("weight", "bias"))
    groups = {} if has_own else group_heads(own, prefix)
    for parent in list_parents(prefix) if layout.heads else ():
        groups |= group_heads(beside, parent)
    for name, group in list(groups.items()):
        if any(PROJECTION in each for each in group):
            notes.append(f"without {name!r}, a projection that pretraining alone needs")
            own = {each: value for each, value in own.items() if each not in group}
            for each in groups.pop(name):
                beside.pop(each, None)
    if not groups or not layout.heads:
        return own
    if has_own or len(groups) > 1:
        names = [*([prefix + layout.heads[0]] if has_own else []), *groups]
        raise InputError(f"{content.path} has several heads ({', '.join(names[:SHOWN])}); {UNKNOWN}")
    ((name, group),) = groups.items()
    layer = find_linear(group)
    if layer is None:
        raise InputError(
            f"{content.path}: its head {name!r} is more than one Linear layer ({', '.join(list(group)[:SHOWN])}, ...); "
            f"{UNKNOWN}"
        )
    notes.append(f"its head is the Linear layer {layer!r}")
    for each in group:
        beside.pop(each, None)
    kept = {each: value for each, value in own.items() if each not in group}
    weight = group[f"{layer}.weight"]
    bias = group.get(f"{layer}.bias", torch.zeros(len(weight)))  # one that a file does not have is 0 here
    return kept | {f"{prefix}{layout.heads[0]}.weight": weight, f"{prefix}{layout.heads[0]}.bias": bias}


def group_heads(names: Mapping[str, Tensor], parent: str) -> dict[str, dict[str, Tensor]]:
    """Weights by the heads that they are parts of: directly behind `parent`, under a usual name."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in names.items():
        first = name.removeprefix(parent).partition(".")[0]
        if name.startswith(parent) and first in HEADS:
            found.setdefault(parent + first, {})[name] = value
    return found


def list_parents(prefix: str) -> list[str]:
    """`model.backbone.` -> `model.` and the empty one."""
    parts = prefix.rstrip(".").split(".")[:-1] if prefix else None
    return [] if parts is None else [".".join([*parts[:end], ""]) for end in range(len(parts), 0, -1)] + [""]


def find_linear(group: Mapping[str, Tensor]) -> str | None:
    """The name of the Linear layer that a head is; None where it is anything else."""
    weights = [name for name in group if name.endswith(".weight")]
    name = weights[0].removesuffix(".weight") if len(weights) == 1 else None
    if name is None or group[weights[0]].ndim != 2 or not group.keys() <= {weights[0], f"{name}.bias"}:
        return None
    bias = group.get(f"{name}.bias")
    return name if bias is None or bias.shape == group[weights[0]].shape[:1] else None


def leave_out(
    content: Content,
    layout: Layout,
    prefix: str,
    own: Mapping[str, Tensor],
    beside: Mapping[str, Tensor],
    notes: list[str],
) -> None:
    """Notes what lies beside a model and is none of its weights; raises InputError where it might be."""
    adopted = any(note.startswith("its head is") for note in notes)
    if adopted or not any(f"{prefix}{name}.weight" in own for name in layout.heads):
        unknown = [name for name in beside if not is_apart(name)]
        if unknown:
            raise InputError(
                f"{content.path}: it also holds {format_names(unknown)}, beside its {prefix!r}, and may need that for "
                f"its answers; {UNKNOWN}"
            )
    notes += note_left_out(beside)


def note_left_out(names: Iterable[str]) -> list[str]:
    """The note on what is no part of the model; none where that is nothing, or counters alone."""
    left = [name for name in names if name.rpartition(".")[2] not in COUNTERS]
    more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
    return [f"left out, as no part of the model: {', '.join(left[:SHOWN])}{more}"] if left else []
