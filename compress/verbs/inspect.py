"""`compress inspect FILE`: what a checkpoint is, from its keys and shapes; nothing of it is run."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from baselines import macs
from baselines.errors import InputError
from baselines.geometry import ViTConfig
from baselines.resizing import STRETCHED
from compress import variant
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import Checkpoint
from compress.checkpoints.user_models import ModuleConfig
from compress.importers import Hints, find_dtype
from compress.importers.normalization import NORMALIZATIONS
from compress.importers.timm_registry import find_name
from compress.methods import METHODS, TopK
from compress.outcome import Outcome
from compress.tables import show, tell
from reports.text import clean

NAMED = 5  # classes that are listed
DEFAULTS = ViTConfig()
SPECIAL = (  # settings that are shown where a model has them: (name, in words)
    ("distill_token", "a distillation token with a head of its own"),
    ("registers", "{} register tokens"),
    ("layer_scale", "LayerScale"),
    ("qk_norm", "normalized queries and keys"),
    ("pre_norm", "a norm before the first block"),
    ("representation", "a layer of {} with tanh before the head"),
    ("head_dim", "heads of width {}"),
    ("block_sizes", "blocks of (heads, queries in a head, values in a head, MLP) {}"),
)


def describe(path: Path, hints: Hints, console: Console) -> Outcome:
    """Prints what a file is, what it does not say, and what can be done with it.

    Raises:
        InputError: it cannot be read, or is of no known layout.
    """
    content = checkpoint.load(path, hints)
    notes, following = content.origin["notes"] if content.origin else [], _list_next(path, content, hints)
    show(console, path.name, [*_origin(path, content), *_geometry(content), *_knowledge(content)])
    tell(console, "assumptions", notes)
    console.print(Text("next", "bold"))
    for command in following:
        console.print(Text(f"  {clean(command)}"), soft_wrap=True)  # one line, however long: it is to be copied
    return Outcome(facts={**_list_facts(path, content), "assumptions": list(notes), "next": following})


def _list_facts(path: Path, content: Checkpoint) -> dict[str, Any]:
    """What the tables say, for programs."""
    config, facts = content.config, dict(_origin(path, content))
    cost = {"parameters": content.parameters, "macs": macs.dense_macs(config)} if isinstance(config, ViTConfig) else {}
    return {
        "file": str(path),
        "family": facts["family"],
        "variant": _name_variant(content),
        "converted": content.converted,
        "methods": [dict(entry) for entry in content.methods],
        "model": config.model_dump(mode="json"),
        **cost,
        "classes": list(content.classes),
        "mean": list(content.mean),
        "std": list(content.std),
        "resizing": content.resizing.model_dump() if content.resizing else None,
        "data": content.dataset or None,
    }


def _origin(path: Path, content: Checkpoint) -> Iterator[tuple[str, str]]:
    origin = content.origin or {"family": "compress", "numbers": ""}
    name = _name_variant(content)
    yield "family", origin["family"]
    yield "variant", f"{name}, converted: it ships" if content.converted else name
    held = sum(value.numel() * value.element_size() for value in content.state.values())
    whole = [each for each in path.iterdir() if each.is_file()] if path.is_dir() else [path]
    size = sum(each.stat().st_size for each in whole if each.exists())
    on_disk = f", {size / 1e6:.2f} MB on disk" if size else ""
    numbers = origin["numbers"] or find_dtype(content.state)
    yield "weights", f"{numbers}; {held / 1e6:.2f} MB in memory{on_disk}"


def _name_variant(content: Checkpoint) -> str:
    base, methods = variant.baseline_name(content.config), [str(entry.get("name")) for entry in content.methods]
    return "_".join([base, *methods] if base != variant.BASELINE else methods) or base


def _geometry(content: Checkpoint) -> Iterator[tuple[str, str]]:
    config = content.config
    height, width = config.image_size
    yield "image", f"{config.channels} x {height} x {width} (channels, height, width)"
    if not isinstance(config, ViTConfig):
        yield "kind", "known to its code alone"
        return
    rows, columns = config.grid
    prefix = f" + {config.prefix_tokens} of its own" if config.prefix_tokens else ""
    yield "tokens", f"{rows} x {columns} patches of {config.patch_size} x {config.patch_size} pixels{prefix}"
    yield "depth, dim, heads, mlp_dim", config.summary
    kinds = [f"tokenizer {config.tokenizer}", f"pool {config.pool}", config.activation, f"epsilon {config.norm_eps:g}"]
    yield "kind", ", ".join(kinds)
    special = [text.format(getattr(config, name)) for name, text in SPECIAL if getattr(config, name)]
    if special:
        yield "with", ", ".join(special)
    yield "parameters", f"{content.parameters:,}"
    yield "MACs of an image", f"{macs.dense_macs(config):,} with all tokens"


def _knowledge(content: Checkpoint) -> Iterator[tuple[str, str]]:
    if content.pretrained:
        yield "classes", "none: it has no head that knows any"
    elif content.classes:
        named = ", ".join(content.classes[:NAMED]) + (", ..." if len(content.classes) > NAMED else "")
        yield "classes", f"{len(content.classes)}: {named}"
    else:
        yield "classes", f"{content.config.classes}, names not stored"
    yield "normalization", _normalization(content.mean, content.std)
    how = content.resizing or STRETCHED
    said = "" if content.resizing or content.origin is None else "; the file does not say, --resize does"
    yield "images of other sizes", how.describe(content.config.image_size) + said
    yield "data", content.dataset or "the file does not say which"


def _normalization(mean: Sequence[float], std: Sequence[float]) -> str:
    if not mean:
        return "the file does not say how; found out on labelled images, or --normalize"
    name = next((f" ({name})" for name, known in NORMALIZATIONS.items() if known == (tuple(mean), tuple(std))), "")
    return f"mean {', '.join(f'{x:.4g}' for x in mean)}; deviation {', '.join(f'{x:.4g}' for x in std)}{name}"


def _list_next(path: Path, content: Checkpoint, hints: Hints) -> list[str]:
    """Commands that take this file as they stand, with all that had to be said of it, but for PATH and IMAGE."""
    config, dtype, file = content.config, _find_dtype(content), shlex.quote(str(path))
    data = [] if content.dataset else ["--data", "folder:PATH"]
    told = list(_repeat_hints(hints))
    if isinstance(config, ModuleConfig) and find_name(path) is None:
        told += ["--model", hints.model or _find_code(path, config.factory)]
    reading = {"--normalize": hints.normalize, "--resize": hints.resize, "--interpolation": hints.interpolation}
    told += [word for option, value in reading.items() if value for word in (option, str(value))]
    if content.pretrained:
        return [f"{_format('train', ['--init', str(path)], data, told)}  # gives it a head"]
    if content.converted or dtype != "fp32":
        return [f"compress predict {file} IMAGE {shlex.join(told)}".rstrip()]
    commands = [_format("quantize", [str(path)], data, told)]
    if content.methods:
        return [*commands, _format("export", [str(path)], told)]
    variants = ["--variants", "topk,int8"] if isinstance(config, ViTConfig) and _drops_tokens(config) else []
    variants = variants or ["--variants", "int8"]
    return [*commands, _format("bench", ["--checkpoint", str(path)], data, variants, told)]


def _format(verb: str, *parts: Sequence[str]) -> str:
    return shlex.join(["compress", verb, *(word for part in parts for word in part)])


def _repeat_hints(hints: Hints) -> Iterator[str]:
    """What the user said of a file, as options of the commands that take it."""
    if hints.heads is not None:
        yield from ("--heads", str(hints.heads))
    if hints.image_size is not None:
        yield from ("--image-size", "x".join(map(str, hints.image_size)))
    if hints.weights is not None:
        yield from ("--weights", hints.weights)
    elif not hints.ema:
        yield "--no-ema"


def _find_code(path: Path, factory: str) -> str:
    """The code of a model as `--model` takes it; files keep its name without the folders, which may be their own."""
    beside = path.parent / factory.rpartition(":")[0]
    return f"{path.parent / factory}" if beside.is_file() else factory


def _find_dtype(content: Checkpoint) -> str:
    """In which dtype its products are meant to run."""
    names = [str(entry.get("name")) for entry in content.methods]
    return METHODS[names[-1]].dtype if names and names[-1] in METHODS else "fp32"


def _drops_tokens(config: ViTConfig) -> bool:
    """Whether `topk`, as it is without settings, finds its places among the blocks."""
    try:
        return bool(TopK().counts(config))
    except InputError:
        return False
