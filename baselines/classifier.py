"""What every model here is, whoever wrote it: images in, logits out.

Legend: B images, C channels.
"""

from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from baselines.output import ClassifierOutput

MANY = 2**26  # channels, classes, or values of a token: more than any machine holds, and still a size of a tensor
Side = Annotated[int, Field(le=2**16)]  # pixels


class ImageConfig(BaseModel):
    """What goes into a model and what comes out. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    image_size: tuple[Side, Side]  # height, width in pixels; one number means square
    channels: int = Field(gt=0, le=MANY)
    classes: int = Field(gt=1, le=MANY)

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value


Config = TypeVar("Config", bound=ImageConfig)


class Classifier(nn.Module, Generic[Config]):
    """A model that compress measures and ships. A subclass describes itself in `config` and has `compute_output`."""

    config: Config

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, height, width) -> logits (B, classes)."""
        return self.compute_output(images).logits

    def compute_output(self, images: Tensor) -> ClassifierOutput:
        """Logits (B, classes), and by-products."""
        raise NotImplementedError

    @property
    def ends(self) -> tuple[nn.Module, nn.Module]:
        """The part that takes the images, and the one that gives the logits."""
        raise NotImplementedError
