"""What config.json and preprocessor_config.json say of a ViT or DeiT of Hugging Face.

Sizes come from the weights. What config.json says of them must agree, and is believed only where weights do not tell.
"""

import math
from typing import Any

from baselines.errors import InputError
from compress.importers.base import UNKNOWN, Hints
from compress.importers.geometry import confirm_heads, infer_heads, infer_image_size
from compress.importers.weights import Weights

EPS = 1e-12  # of norms, where no config.json says another
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}  # theirs: ours
PIXELS = 255  # the largest value of one


def check_kind(weights: Weights) -> None:
    """Raises InputError where config.json names another model than a ViT or DeiT, or one that predicts numbers."""
    said = weights.content.settings
    kind = said.get("model_type")
    if kind not in (None, "vit", "deit"):
        raise InputError(f"{weights.path} is a {kind!s:.40} of Hugging Face, neither a vit nor a deit; {UNKNOWN}")
    if said.get("problem_type") == "regression":
        raise InputError(f"{weights.path} predicts numbers (problem_type regression); give a model that knows classes")


def check_sizes(weights: Weights, **held: int) -> None:
    """Raises InputError where config.json says another size than the weights have; it may be silent."""
    for name, size in held.items():
        said = weights.content.settings.get(name, size)
        if said not in (size, [size, size]):
            raise weights.error(f"config.json says {name} {said!r:.40}, its weights have {size}")


def read_heads(weights: Weights, hints: Hints, dim: int, depth: int, inner: int) -> tuple[int, int]:
    """Number of heads, and their width, 0 where it is `dim` / heads.

    Args:
        inner: width of the queries of all heads together.

    Raises:
        InputError: they do not fit the weights, or `hints` say something else than config.json.
    """
    number = _read_count(weights, "num_attention_heads")
    if number is None:
        number = infer_heads(weights, hints, dim, depth)
    confirm_heads(weights, hints, number, ", as its config.json says")
    width = _read_count(weights, "head_dim") or dim // number
    if number * width != inner:
        raise weights.error(f"{number} heads of width {width} do not make queries of {inner} values")
    return number, 0 if inner == dim else width


def read_image_size(weights: Weights, hints: Hints, patches: int, patch_size: int) -> tuple[int, int]:
    """Height and width in pixels, as hints or else config.json say; square, where neither does.

    Raises:
        InputError: they make another number of patches.
    """
    said = weights.content.settings.get("image_size")
    if said is None or hints.image_size is not None:
        return infer_image_size(weights, hints, patches, patch_size)
    sides = said if isinstance(said, list) else [said, said]
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise weights.error(f"config.json says image_size {said!r:.40}")
    if math.prod(side // patch_size for side in sides) != patches:
        raise weights.error(
            f"config.json says image_size {said!r:.40}, its weights have positions for {patches} patches of "
            f"{patch_size} x {patch_size} pixels"
        )
    return sides[0], sides[1]


def read_numerics(weights: Weights) -> dict[str, Any]:
    """Activation and epsilon of the norms.

    Raises:
        InputError: no such activation here.
    """
    said = weights.content.settings
    if not said:
        weights.notes.append(f"GELU, and norms with an epsilon of {EPS}, as no config.json says otherwise")
    activation = str(said.get("hidden_act", "gelu"))
    if activation not in ACTIVATIONS:
        raise InputError(
            f"{weights.path} has {activation:.40} in its blocks, where {', '.join(ACTIVATIONS)} are known; {UNKNOWN}"
        )
    return {"activation": ACTIVATIONS[activation], "norm_eps": said.get("layer_norm_eps", EPS)}


def read_classes(weights: Weights, count: int) -> tuple[str, ...]:
    """Their names; empty where config.json only numbers them.

    Raises:
        InputError: it names other than those that the head tells apart.
    """
    said = weights.content.settings.get("id2label")
    if said is None:
        return ()
    if not isinstance(said, dict) or said.keys() != {str(i) for i in range(count)}:
        told = f"{len(said)} classes" if isinstance(said, dict) else "no classes"
        raise weights.error(f"config.json names {told} (id2label), its head tells {count} apart")
    names = tuple(str(said[str(i)]) for i in range(count))
    return () if names == make_label_names(count) else names


def read_normalization(weights: Weights, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel, of pixels in [0, 1]; empty where preprocessor_config.json does not say.

    Raises:
        InputError: they are no numbers, or not as many as channels.
    """
    said = weights.content.preprocessing
    normalized = said.get("do_normalize", True)
    if not said or (normalized and ("image_mean" not in said or "image_std" not in said)):
        return (), ()
    given = (said["image_mean"], said["image_std"]) if normalized else (0.0, 1.0)
    try:
        scale = PIXELS * (float(said.get("rescale_factor", 1 / PIXELS)) if said.get("do_rescale", True) else 1.0)
        mean, std = (
            tuple(float(value) / scale for value in (each if isinstance(each, list) else [each] * channels))
            for each in given
        )
        if not len(mean) == len(std) == channels or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
            raise ValueError
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise weights.error(
            f"preprocessor_config.json does not normalise {channels} channels (image_mean {given[0]!r:.60}, image_std "
            f"{given[1]!r:.60})"
        ) from error
    return mean, std


def _read_count(weights: Weights, name: str) -> int | None:
    """A number of config.json; None where it does not say."""
    value = weights.content.settings.get(name)
    if value is not None and not (isinstance(value, int) and value > 0):
        raise weights.error(f"config.json says {name} {value!r:.40}")
    return value


def make_label_names(count: int) -> tuple[str, ...]:
    """Names of classes that have none."""
    return tuple(f"LABEL_{i}" for i in range(count))
