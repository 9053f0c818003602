"""A baseline that learns from the training images without their labels, as a start for `--init`.

OUT/pretrained_vit_model.pth                 copy of the one that was made last
OUT/models/pretrained_vit-<hash>/pretrained_vit_model.pth, training.jsonl, state.pt while training
"""

from baselines import pretrain
from baselines.pretrain import Pretrainer
from compress.training.workshop import Built, Workshop
from compress.variant import Variant

FILE = "pretrained_vit_model.pth"


class Pretraining(Workshop):
    """A workshop whose baseline learns as `[pretrain]` says, and has a head that knows nothing."""

    def baseline(self) -> Built:
        """The dense model: found or pretrained."""
        settings = self.config.pretrain
        pretrain.check(settings, self.config.model)
        parts = ["pretrained", self.config.model.model_dump(), settings.model_dump(), self.config.seed]
        key = self._place(Variant(()), parts + ([self.initial.key] if self.initial else [])).key
        built = Built(Variant(()), self.out / "models" / f"pretrained_vit-{key}" / FILE, key, pretrained=True)
        if self._missing(built):
            self._train(built, settings, Pretrainer)
        self._show(built, FILE)
        return built
