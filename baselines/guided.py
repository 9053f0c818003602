"""A training that looks at more than the labels: they count for a share, and tokens are made comparable first.

What only the comparison needs has weights of its own. They are learned beside the model, saved with the state of the
training, and never part of what it leaves behind.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from baselines.feed import Batch
from baselines.output import ViTOutput
from baselines.train import Trainer


class GuidedTrainer(Trainer):
    """A training with a teacher; the other arguments are those of `Trainer`.

    Args:
        label_weight: factor on the loss against the labels.
        projector: tokens of the model (B, R, D) -> tokens as wide as the teacher's, for the loss terms.
    """

    def __init__(self, *others: Any, label_weight: float = 1.0, projector: nn.Module | None = None, **further: Any):
        self.label_weight, self.projectors = label_weight, nn.ModuleList([projector] if projector else [])
        super().__init__(*others, **further)
        if weights := list(self.projectors.parameters()):
            self.optimizer.add_param_group({"params": weights, "weight_decay": 0.0, "lr_scale": 1.0})

    def network(self) -> nn.Module:
        network = super().network()
        return ProjectedNetwork(network, self.projectors[0].to(self.device)) if self.projectors else network

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        losses, noted = super().losses(batch)
        return {**losses, "cross_entropy": self.label_weight * losses["cross_entropy"]}, noted

    def state(self) -> dict[str, Any]:
        return {**super().state(), "guides": self.projectors.state_dict()}  # the key of older snapshots

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.projectors.load_state_dict(state["guides"])


class ProjectedNetwork(nn.Module):
    """A network whose output also holds its tokens in the width of a teacher."""

    def __init__(self, network: nn.Module, projector: nn.Module):
        super().__init__()
        self.network, self.projector = network, projector

    def forward(self, images: Tensor) -> ViTOutput:
        output = self.network(images)
        return replace(output, projected_tokens=self.projector(output.tokens))
