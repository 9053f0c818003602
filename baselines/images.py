"""Image files -> uint8 pixels: upright, with 8 bits a channel, and only one large image in memory at a time.

Legend: C channels.
"""

import contextlib
import math
import threading
from collections import Counter
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from baselines.errors import InputError

FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP", "TIFF", "GIF", "JPEG2000", "AVIF")  # PostScript would be executed
LARGE = 2**24  # pixels of an image that is decoded alone; Pillow refuses those of 180 million, 700 MB
NUMBERS = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # modes of one channel of more than 8 bits
ORIENTATION, BITS, PHOTOMETRIC = 0x0112, 258, 262  # tags of EXIF and TIFF
MAXIMA = (341, 281)  # SMaxSampleValue, MaxSampleValue of TIFF

# What was done to an image beyond decoding it: a remark, counted and said once of a data set
TURNED = "stored turned or mirrored; set upright as their EXIF data say"
TRANSPARENT = "partly transparent; their colours count as if they were not"
DEEP = "of more than 8 bits a channel, scaled from the range of their type"
RESIZED = "of another size than the model's"
DIM = "all below 1/16 of that range: if they hold 12 bits, save them scaled to 16"

REPAIR = "repair or remove them"  # images that cannot be used, unless something better helps

_alone = threading.Lock()


class Stored(Protocol):
    """An image that is no file of its own; `str` names it."""

    def open(self) -> IO[bytes]: ...

    @property
    def facts(self) -> tuple[Any, ...]:
        """Change when the image does."""
        ...


Picture: TypeAlias = Path | Stored


class Fitting(Protocol):
    """How an image gets to the size of a model: a `Resizing`, or a `View` of it."""

    def apply(self, image: Image.Image, image_size: tuple[int, int]) -> Image.Image: ...


class ImageError(InputError):
    """A file that cannot be used as an image."""

    def __init__(self, text: str, path: Picture | None = None, fault: str = "", remedy: str = REPAIR):
        super().__init__(text)
        self.path, self.fault, self.remedy = path, fault, remedy


def list_formats() -> list[str]:
    """Those of FORMATS that this Pillow reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def list_suffixes() -> frozenset[str]:
    """Of the files that are read, in lower case."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


def is_image(path: Path) -> bool:
    """Whether a file begins as an image does, whatever its name says."""
    try:
        with Image.open(path, formats=list_formats()):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # as in `read`
        return False


def decode(path: Picture, image_size: tuple[int, int], channels: int, resizing: Fitting) -> Tensor:
    """The pixels that `read` gives."""
    return read(path, image_size, channels, resizing)[0]


def read(
    path: Picture, image_size: tuple[int, int], channels: int, resizing: Fitting
) -> tuple[Tensor, frozenset[str]]:  # fmt: skip
    """One image file -> (C, height, width) uint8, and the remarks that apply.

    Args:
        image_size: height and width.
        resizing: how the image gets there.

    Raises:
        ImageError: the file is no image, is cut short or too large, or its numbers have no known range.
    """
    height, width = image_size
    try:
        image = Image.open(path if isinstance(path, Path) else path.open(), formats=list_formats())
        large = image.width * image.height > LARGE
        with _alone if large else contextlib.nullcontext(), contextlib.closing(image):  # its memory is free at the end
            converted, remarks = convert(path, image, "RGB" if channels == 3 else "L")
            if converted.size != (width, height):
                remarks |= {RESIZED}
            pixels: Any = np.array(resizing.apply(converted, image_size))
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        fault = f"too many pixels: {error}".rstrip(".")
        raise ImageError(f"{path} has {fault}; make it smaller", path, fault, "make them smaller") from error
    except Exception as error:  # what Pillow's decoders raise on damaged files is no closed list
        fault = "of no known format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ImageError(f"{path} is not a readable image ({fault}); repair or remove it", path, fault) from error
    return torch.from_numpy(pixels).view(height, width, channels).permute(2, 0, 1), remarks


def describe(remarks: Counter[str], count: int) -> list[str]:
    """The remarks on `count` images, in sentences."""
    told = [each for each in (TURNED, TRANSPARENT, DEEP) if remarks[each]]
    said = [f"{remarks[each]:,} of {count:,} images: {each}" for each in told]
    if remarks[DEEP] and remarks[DIM] == remarks[DEEP]:  # a dark image among others says nothing
        said[-1] += f", {DIM}"
    return said


def convert(path: Picture, image: Image.Image, mode: str) -> tuple[Image.Image, frozenset[str]]:
    """An image as it has to be seen, in `mode` (L or RGB), and the remarks."""
    remarks = set()
    turned = _read_orientation(image) if image.format == "TIFF" else 1  # Pillow turns these while it loads them
    image.load()
    if max(turned, _read_orientation(image)) > 1:
        remarks.add(TURNED)
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode in NUMBERS:
        remarks.add(DEEP)
        image = _scale_to_8_bits(path, image)
        extrema: Any = image.getextrema()
        if extrema[1] <= 16:
            remarks.add(DIM)
    elif _is_transparent(image):
        remarks.add(TRANSPARENT)
    image.info.pop("transparency", None)  # Pillow warns of what it loses there
    if image.mode == "LAB":
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode), frozenset(remarks)


def _read_orientation(image: Image.Image) -> int:
    """1 to 8; 1 is upright."""
    try:
        orientation: Any = image.getexif().get(ORIENTATION)
    except Exception:  # the pixels may be sound where EXIF data are damaged
        return 1
    return orientation if orientation in range(1, 9) else 1


def _is_transparent(image: Image.Image) -> bool:
    if image.mode in ("LA", "PA", "RGBA"):
        lowest: Any = image.getchannel("A").getextrema()
        return lowest[0] < 255
    return "transparency" in image.info


def _scale_to_8_bits(path: Picture, image: Image.Image) -> Image.Image:
    """An image of 16 bits, 32 bits or floats -> L, by the range that its type has or its file declares."""
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    low, high = values.min(), values.max()
    top = _find_range(image, tags)
    if top is None and image.mode == "F" and 0 <= low <= high <= 1:
        top = 1
    if top is None or not 0 <= low <= high <= top:  # nor where a number is none
        range_ = "no known range" if top is None else f"a range of 0 to {top}"
        fault = f"numbers from {low:g} to {high:g} in {range_}"
        remedy = "with 8 or 16 bits a channel, or as floats from 0 to 1"
        said = f"{path} cannot be scaled to 8 bits: it holds {fault}; save it {remedy}"
        raise ImageError(said, path, fault, f"save them {remedy}")
    levels = np.multiply(values, np.float32(255 / top), dtype=np.float32)
    pixels = np.rint(levels, out=levels).astype(np.uint8)
    return Image.fromarray(255 - pixels if tags.get(PHOTOMETRIC) == 0 else pixels)  # 0: white is zero


def _find_range(image: Image.Image, tags: Any) -> int | None:
    """The number that means white; None where nothing tells."""
    for tag in MAXIMA:
        declared = tags.get(tag)
        first: Any = declared[0] if isinstance(declared, tuple) and declared else declared
        if first and math.log2(first + 1) % 1 == 0:  # others are what this image holds, not what it could
            return int(first)
    if image.mode.startswith("I;16"):
        return 2 ** tags.get(BITS, (16,))[0] - 1
    if image.mode == "I" and image.format != "TIFF":
        return 2**16 - 1  # of PNG and PGM, whose smaller ranges Pillow scales to it
    return None
