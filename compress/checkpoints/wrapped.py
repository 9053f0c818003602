"""A module of the user's as a model of compress.

Legend: B images, C channels.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from baselines.classifier import Classifier, ImageConfig
from baselines.output import ClassifierOutput


class ModuleConfig(ImageConfig):
    """A model that only its code can make."""

    kind: Literal["module"] = "module"
    factory: str = Field(max_length=500)  # as the user typed it; read by people alone
    name: str = Field(pattern=r"^\w{1,80}$")  # of its variants, such as resnet18


class Wrapped(Classifier[ModuleConfig]):
    """Somebody else's module as a model of compress."""

    def __init__(self, module: nn.Module, config: ModuleConfig):
        super().__init__()
        self.config, self.module, self.last = config, module, nn.Identity()

    def compute_output(self, images: Tensor) -> ClassifierOutput:
        """See `Classifier`; some libraries hand out an object that holds the logits."""
        out = self.module(images)
        return ClassifierOutput(self.last(getattr(out, "logits", out)))

    @property
    def ends(self) -> tuple[nn.Module, nn.Module]:
        return self.module, self.last
