"""What a classifier is trained to do, image by image, also where classes are not equally common.

Legend: B images, C classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.feed import Batch
from baselines.recipe import TrainConfig

CERTAIN = 1e-7  # least 1 - p: the slope of its power below 1 has no end at 0


class Classification:
    """The loss against the labels.

    Cross entropy with label smoothing; with `focal` (Lin et al., arXiv 1708.02002) times (1 - p)^gamma of the right
    class; with `class_weights` times a weight in inverse proportion to the size of the class, 1 on average over the
    training images; with `ohem` (Shrivastava et al., arXiv 1604.03540) the mean over the images of highest loss only.

    Args:
        counts: training images of each class, (classes,).
    """

    def __init__(self, config: TrainConfig, counts: Tensor, device: torch.device):
        self.config = config
        equal = counts.sum() / (counts > 0).sum()  # images of each class, were all equally common
        weights = equal / counts.clamp(min=1) if config.class_weights else torch.ones(len(counts))
        self.weights = weights.to(device)

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """Logits (B, classes), float32 -> the mean loss of those images that count."""
        losses = self._of(logits, batch.labels)
        if batch.share is not None:
            losses = batch.share * losses + (1 - batch.share) * self._of(logits, batch.others)
        if self.config.ohem < 1:
            losses = losses.topk(max(round(self.config.ohem * len(losses)), 1)).values
        return losses.mean()

    def _of(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.config.label_smoothing)
        if self.config.loss == "focal":
            wrong = -logits.log_softmax(1).gather(1, labels[:, None])[:, 0].expm1()
            losses = wrong.clamp(min=CERTAIN) ** self.config.focal_gamma * losses
        return losses * self.weights[labels]


def soft(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Logits of student and teacher (B, C) -> T^2 KL, averaged over images (Hinton et al. 2015, arXiv 1503.02531)."""
    own, aim = ((each / temperature).log_softmax(1) for each in (logits, taught))
    return temperature**2 * F.kl_div(own, aim, reduction="batchmean", log_target=True)
