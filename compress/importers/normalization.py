"""How images are normalized: the ways that are in use, and one in numbers."""

from baselines.errors import InputError

Normalization = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation per channel, of pixels in [0, 1]
NORMALIZATIONS: dict[str, Normalization] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # torchvision, DeiT, DINOv2
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # ViT of Google, and timm's of them
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
DATA = "data"  # the mean and deviation of the training images


def list_normalizations(name: str | None, channels: int) -> dict[str, Normalization]:
    """The normalizations that may be meant, by name; `data`, which images tell, is not among them.

    Args:
        name: a name, or numbers as in 0.5,0.5,0.5/0.25,0.25,0.25; None: any.

    Raises:
        InputError: it is neither.
    """
    grey = {
        name: (mean[:1], std[:1]) for name, (mean, std) in NORMALIZATIONS.items() if len({*mean}) == len({*std}) == 1
    }
    named = (
        NORMALIZATIONS
        if channels == 3
        else {name: (mean * channels, std * channels) for name, (mean, std) in grey.items()}
    )
    if name is None or name == DATA:
        return named
    if name in named:
        return {name: named[name]}
    try:
        mean, std = (tuple(float(number) for number in part.split(",")) for part in name.split("/"))
        if not (len(mean) == len(std) == channels and min(std) > 0):
            raise ValueError
    except ValueError:
        example = "/".join(",".join(["0.5"] * channels) for _ in range(2))
        raise InputError(
            f"--normalize {name!r} is not known; choose from {', '.join([*named, DATA])}, or give mean and deviation "
            f"of each of {channels} channels, as in {example}"
        ) from None
    return {name: (mean, std)}
