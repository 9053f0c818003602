"""What a forward pass gives beside its logits: typed, so that a by-product has one name, one shape and one place.

Legend: B images, N tokens incl. the prefix, R tokens that reach the head, D width, L blocks, P patches, S stages,
        G tokens that a halting gate looks at.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Halting:
    """How adaptive halting went while training."""

    weights: Tensor  # (B, G, L): weight of each token's state after each block; sums to 1 over the blocks
    blocks_run: Tensor  # (B, G): blocks that each token ran in, a count without a gradient
    remainder: Tensor  # (B, G): weight that was left at the block where a token stopped


@dataclass(frozen=True)
class EncoderOutput:
    """What an encoder hands to the head, and what it did on the way; a field that is None says nothing happened."""

    tokens: Tensor  # (B, R, D), at least those that are pooled
    counts: Tensor | None = None  # (B, L) int64: tokens of each image that ran in each block; None: all N
    mlp_counts: Tensor | None = None  # (B, L) int64: in the second half of each block; None: as many
    sizes: Tensor | None = None  # (B, R): patches that each token stands for; None: one each
    decisions: Tensor | None = None  # (B, S, P): 1 for patches kept from each stage on, 0 for others; while training
    halting: Halting | None = None  # while training


@dataclass(frozen=True)
class ClassifierOutput:
    """What any classifier gives."""

    logits: Tensor  # (B, classes)


@dataclass(frozen=True)
class ViTOutput(ClassifierOutput):
    """What a `VisionTransformer` gives."""

    tokens: Tensor  # (B, R, D), those that are pooled, after the last norm where that comes before pooling
    encoder: EncoderOutput
    distill_logits: Tensor | None = None  # (B, classes), of the distillation token's head; while training
    projected_tokens: Tensor | None = None  # (B, R, width of a teacher); while a projector is trained
