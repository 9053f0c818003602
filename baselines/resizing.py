"""How an image of any size becomes one of the size that a model takes: resized, then cut out of the middle or padded.

The words are those of timm, torchvision and Hugging Face, whose transforms give the same pixels to one level:

    fit        timm             torchvision           Hugging Face
    stretch    squash           Resize((h, w))        size {height, width}
    shortest   center           Resize(n)             size {shortest_edge}
    longest    border                                                       padded with `fill`
    none                                              do_resize false
"""

from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

LARGEST = 2**28  # pixels of a resized image: a long and narrow one grows without bound with its shorter edge

Fit = Literal["stretch", "shortest", "longest", "none"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Side = Annotated[int, Field(gt=0, le=2**14)]
Level = Annotated[int, Field(ge=0, le=255)]


class Resizing(BaseModel):
    """What is done to a decoded image.

    Attributes:
        fit: `stretch` to `size`; its shorter or longer edge to that of `size`, at its own ratio; or `none`.
        size: height and width, before the middle is cut out; None: those of the model.
        fill: levels of the channels where an image does not cover what is cut out; black by default.
        offset: how Hugging Face ("floor") and the others ("round") place a middle that lies between two pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fit: Fit = "stretch"
    size: tuple[Side, Side] | None = None
    interpolation: Interpolation = "bilinear"
    fill: tuple[Level, ...] = ()
    offset: Literal["round", "floor"] = "round"

    def apply(self, image: Image.Image, image_size: tuple[int, int]) -> Image.Image:
        """The image at `image_size` (height, width).

        Raises:
            ValueError: it is so narrow that it would become too large.
        """
        height, width = self.find_size(image.height, image.width, image_size)
        if height * width > LARGEST:
            raise ValueError(f"{image.width} x {image.height} pixels would become {width} x {height}")
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        return self._cut(image, *image_size)

    def find_size(self, height: int, width: int, image_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of an image before its middle is cut out."""
        target_height, target_width = self.size or image_size
        if self.fit == "none":
            return height, width
        if self.fit == "stretch":
            return target_height, target_width
        if self.fit == "shortest" and target_height == target_width:  # as torchvision's Resize(n) rounds
            longer = int(target_height * max(height, width) / min(height, width))
            return (target_height, longer) if height <= width else (longer, target_height)
        choose = min if self.fit == "shortest" else max
        ratio = choose(height / target_height, width / target_width)
        return max(round(height / ratio), 1), max(round(width / ratio), 1)

    def _cut(self, image: Image.Image, height: int, width: int) -> Image.Image:
        if image.size == (width, height):
            return image
        bands = len(image.getbands())
        fill: Any = self.fill if len(self.fill) == bands else [0] * bands
        left, top = (self._find_offset(got, wanted) for got, wanted in zip(image.size, (width, height), strict=True))
        cut = Image.new(image.mode, (width, height), fill[0] if image.mode == "L" else tuple(fill))
        cut.paste(image, (-left, -top))
        return cut

    def _find_offset(self, got: int, wanted: int) -> int:
        """Where the middle begins; below 0 where there is less than is wanted."""
        if got < wanted:
            return -((wanted - got) // 2)
        return (got - wanted) // 2 if self.offset == "floor" else round((got - wanted) / 2)

    def describe(self, image_size: tuple[int, int]) -> str:
        """In words: `shorter edge to 256 (bicubic), center crop of 224 x 224`."""
        height, width = self.size or image_size
        edge = str(height) if height == width else f"that of {height} x {width}"
        done = {
            "stretch": f"stretched to {height} x {width}",
            "shortest": f"shorter edge to {edge}",
            "longest": f"longer edge to {edge}",
            "none": "not resized",
        }[self.fit]
        done += f" ({self.interpolation})" if self.fit != "none" else ""
        if self.fit == "stretch" and (height, width) == image_size:
            return done
        padded = ", padded" if self.fit == "longest" else ""
        return f"{done}{padded}, center crop of {image_size[0]} x {image_size[1]}"


STRETCHED = Resizing()  # what is done where nobody says


def from_crop_share(
    image_size: tuple[int, int],
    share: float,
    mode: str | None,
    interpolation: Interpolation,
    mean: tuple[float, ...],
) -> Resizing:
    """As timm evaluates: the middle that is cut out is `share` (its crop_pct) of the resized image.

    Source: `transforms_imagenet_eval` of timm 1.0.

    Args:
        mode: timm's crop_mode: center, squash or border; center where nobody says.
        mean: of the normalization, whose colour borders have.
    """
    height, width = (int(side / share) for side in image_size)
    fits: dict[str, Fit] = {"squash": "stretch", "border": "longest"}
    fit = fits.get(mode or "", "shortest")
    fill = tuple(round(255 * value) for value in mean) if fit == "longest" else ()
    size = None if (height, width) == image_size else (height, width)
    return Resizing(fit=fit, size=size, interpolation=interpolation, fill=fill)
