"""How other libraries, and options, say that images are resized -> `Resizing`."""

import re
from typing import Any, cast, get_args

from PIL import Image
from pydantic import ValidationError

from baselines.errors import InputError
from baselines.resizing import Interpolation, Resizing, from_crop_share

DEFAULT_CROP_SHARE = 0.875  # timm's, where nobody says
SHORTEST = ("clip", "bit", "convnext")  # whose processors mean the shorter edge by one number
DEFAULTS: dict[str, dict[str, Any]] = {  # of the processors of Hugging Face, where a file is silent
    "vit": {"size": 224, "resample": 2},
    "deit": {"size": 256, "crop_size": 224, "resample": 3},
    "bit": {"size": 224, "crop_size": 224, "resample": 3},
    "clip": {"size": 224, "crop_size": 224, "resample": 3},
}
PUBLISHED = r"vit_\w+-[0-9a-f]{8}\.pth"  # by torchvision


def parse_resizing(
    text: str, image_size: tuple[int, int], interpolation: Interpolation, mean: tuple[float, ...]
) -> Resizing:
    """What `--resize` says.

    Args:
        text: stretch, crop, pad; the shorter edge in pixels before the middle is cut out; or timm's crop_pct.
        image_size: height and width that the model takes.
        mean: of the normalization, whose colour padding has.

    Raises:
        InputError: it is none of these.
    """
    known = {"stretch": "squash", "squash": "squash", "crop": "center", "center": "center", "pad": "border"}
    try:
        if text in known:
            return from_crop_share(image_size, 1, known[text], interpolation, mean)
        if text.isdecimal() and int(text) >= min(image_size):
            return Resizing(fit="shortest", size=(int(text), int(text)), interpolation=interpolation)
        if 0 < float(text) <= 1:
            return from_crop_share(image_size, float(text), "center", interpolation, mean)
    except ValueError:  # among them ValidationError
        pass
    raise InputError(
        f"--resize {text!r:.40} is not known; give stretch, crop, pad, the shorter edge in pixels (from "
        f"{min(image_size)} to {2**14}), or the share of it that is kept, such as 0.875"
    )


def check_interpolation(name: str | None) -> Interpolation | None:
    """Raises InputError where `--interpolation` names none."""
    known = get_args(Interpolation)
    if name not in (None, *known):
        raise InputError(f"--interpolation {name!r:.40} is not known; choose from {', '.join(known)}")
    return cast(Interpolation | None, name)


def read_timm(said: Any, image_size: tuple[int, int], mean: tuple[float, ...]) -> Resizing | None:
    """Of timm's pretrained_cfg, as its `create_transform` evaluates; None where it asks for what Pillow has not.

    Args:
        said: has `crop_pct`, `crop_mode` and `interpolation`, each None where it is not set.
    """
    try:
        share = said.crop_pct or DEFAULT_CROP_SHARE
        return from_crop_share(image_size, share, said.crop_mode, said.interpolation or "bicubic", mean)
    except ValidationError:
        return None


def read_huggingface(said: dict[str, Any], image_size: tuple[int, int]) -> Resizing | None:
    """Of preprocessor_config.json; None where it says nothing of this, or what compress has not.

    Sizes for images of another size than the model's grow or shrink with it.
    """
    kind = str(said.get("image_processor_type") or said.get("feature_extractor_type") or "").lower()
    shortest = kind.startswith(SHORTEST)
    known = DEFAULTS.get(re.sub("(imageprocessor|featureextractor).*", "", kind), {})
    whole = "size" not in said or image_size == (224, 224)  # a size alone does not go with a crop of 224
    said = {**(known if whole else {"resample": known.get("resample", 2)}), **said}
    if "size" not in said and said.get("do_resize", True):
        return None
    try:
        resized, edge = _read_size(said["size"], shortest) if said.get("do_resize", True) else (image_size, False)
        crops = said.get("do_center_crop", shortest or kind.startswith("deit"))
        cut = _read_size(said.get("crop_size", resized), False)[0] if crops else resized
        if {"crop_pct", "do_pad"} & {name for name, value in said.items() if value}:
            return None
        filter_ = Image.Resampling(int(said.get("resample", 2))).name.lower()
        size: Any = tuple(
            round(side * ours / theirs) for side, ours, theirs in zip(resized, image_size, cut, strict=True)
        )
        fit = "none" if not said.get("do_resize", True) else "shortest" if edge else "stretch"
        return Resizing.model_validate(
            {"fit": fit, "size": None if size == image_size else size, "interpolation": filter_, "offset": "floor"}
        )
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None


def _read_size(said: Any, shortest: bool) -> tuple[tuple[int, int], bool]:
    """Height and width, and whether they are of the shorter edge; raises KeyError, TypeError, ValueError."""
    if isinstance(said, dict) and "shortest_edge" in said and said.keys() <= {"shortest_edge"}:
        said, shortest = said["shortest_edge"], True
    elif isinstance(said, dict):
        return (int(said["height"]), int(said["width"])), False
    if isinstance(said, list):
        return (int(said[0]), int(said[-1])), False
    return (int(said), int(said)), shortest


def write_huggingface(resizing: Resizing, image_size: tuple[int, int]) -> dict[str, Any]:
    """The part of preprocessor_config.json that says it; raises InputError where no processor does so."""
    height, width = resizing.size or image_size
    crops = (height, width) != image_size or resizing.fit == "shortest"
    if resizing.fit not in ("stretch", "shortest") or (resizing.fit == "shortest" and height != width):
        raise InputError(
            f"Hugging Face has no processor for images as this model takes them ({resizing.describe(image_size)}); "
            "give another with --resize stretch or crop"
        )
    kind = "BitImageProcessor" if resizing.fit == "shortest" else "DeiTImageProcessor" if crops else "ViTImageProcessor"
    cut = {"do_center_crop": True, "crop_size": dict(zip(("height", "width"), image_size, strict=True))}
    return {
        "image_processor_type": kind,
        "do_resize": True,
        "size": {"shortest_edge": height} if resizing.fit == "shortest" else {"height": height, "width": width},
        "resample": int(Image.Resampling[resizing.interpolation.upper()]),
        **(cut if crops else {}),
    }


def read_torchvision(name: str) -> dict[str, Any]:
    """Of the weights that torchvision publishes under a file's name: of ImportedModel, or nothing."""
    if not re.fullmatch(PUBLISHED, name):
        return {}
    from torchvision import models

    for builder in models.list_models(include="vit_*"):
        for weights in models.get_model_weights(builder):
            if weights.url.rsplit("/", 1)[-1] == name:
                said: Any = weights.transforms()
                (edge,), (cut,) = said.resize_size, said.crop_size
                size = None if edge == cut else (edge, edge)
                resizing = Resizing(fit="shortest", size=size, interpolation=said.interpolation.value)
                classes = tuple(weights.meta["categories"])
                found = {"mean": tuple(said.mean), "std": tuple(said.std), "classes": classes}
                return {**found, "resizing": resizing, "image_size": (cut, cut)}
    return {}
