"""A training that looks at more than the labels: they count for a share, and by-products are made comparable first.

What only the comparison needs has weights of its own. They are learned beside the model, saved with the state of the
training, and never part of what it leaves behind.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from baselines.feed import Batch
from baselines.train import Trainer


class Guided(Trainer):
    """A training with guides; the other arguments are those of `Trainer`.

    Args:
        label_weight: factor on the loss against the labels.
        guides: modules that take the by-products of the model, by name, and return further ones for the loss terms.
    """

    def __init__(self, *others: Any, label_weight: float = 1.0, guides: Sequence[nn.Module] = (), **further: Any):
        self.label_weight, self.guides = label_weight, nn.ModuleList(guides)
        super().__init__(*others, **further)
        if weights := list(self.guides.parameters()):
            self.optimizer.add_param_group({"params": weights, "weight_decay": 0.0, "lr_scale": 1.0})

    def network(self) -> nn.Module:
        network = super().network()
        return WithGuides(network, self.guides.to(self.device)) if len(self.guides) else network

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        losses, noted = super().losses(batch)
        return {**losses, "cross_entropy": self.label_weight * losses["cross_entropy"]}, noted

    def state(self) -> dict[str, Any]:
        return {**super().state(), "guides": self.guides.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.guides.load_state_dict(state["guides"])


class WithGuides(nn.Module):
    """A network that gives logits and by-products, and what guides make of those."""

    def __init__(self, network: nn.Module, guides: nn.ModuleList):
        super().__init__()
        self.network, self.guides = network, guides

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits, aux = self.network(images)
        for guide in self.guides:
            aux = {**aux, **guide(aux)}
        return logits, aux
