"""The plain alternative to token reduction: a narrower ViT of about the same cost, trained the same way.

Modifications to the baseline: all of it is replaced by a new model of smaller width and the same depth, heads,
patches and pooling, which is trained from scratch with the settings of the baseline. A method that saves work and does
not beat it was not worth its trouble.
"""

from collections.abc import Mapping
from math import lcm
from typing import Any, ClassVar

from pydantic import Field

from baselines.macs import dense_macs
from baselines.vit import VisionTransformer, ViTConfig
from compress.methods.base import Method, Stage


class Narrow(Method):
    name: ClassVar[str] = "narrow"
    stage: ClassVar[Stage] = Stage.GEOMETRY
    trains: ClassVar[bool] = True
    from_scratch: ClassVar[bool] = True
    in_geometry: ClassVar[bool] = True
    identity: ClassVar[Mapping[str, Any]] = {"macs": 1.0}

    macs: float = Field(default=0.7, gt=0, le=1)  # share of the baseline's multiply-accumulates

    def prepare(self, model: VisionTransformer) -> VisionTransformer:
        config = narrower(model.config, self.macs)
        return model if config == model.config else VisionTransformer(config)


def narrower(config: ViTConfig, share: float) -> ViTConfig:
    """The geometry whose MACs come closest to `share` of those of `config`.

    Widths are multiples of 8 for each head, and hidden layers multiples of 8, as kernels like them. Heads with a width
    of their own keep its proportion to that of the model. Of the widths that come within 2 % with some hidden layer,
    the one that keeps the proportion of both best.
    """
    if share == 1:
        return config
    aim, proportion = share * dense_macs(config), config.mlp_dim / config.dim
    config = config.model_copy(update={"block_sizes": None, "tokenizer_dim": None})  # all blocks alike
    shared = 1 if config.head_dim else config.heads  # that have to divide the width
    step = lcm(shared * 8, max(config.patch_size // 2, 1) if config.tokenizer in ("conv", "cct") else 1)
    widths = range(step, config.dim + 1, step) or range(shared, config.dim + 1, shared)
    found = []
    for width in widths:
        head_dim = min(config.head_dim, max(round(config.head_dim * width / config.dim / 8), 1) * 8)
        changed = config.model_copy(update={"dim": width, "head_dim": head_dim, "mlp_dim": 8})
        a_unit = (dense_macs(changed.model_copy(update={"mlp_dim": 16})) - dense_macs(changed)) / 8
        units = max(round((aim - dense_macs(changed)) / (8 * a_unit)) + 1, 1)
        changed = changed.model_copy(update={"mlp_dim": 8 * units})
        off = abs(dense_macs(changed) / aim - 1)
        found.append((max(off, 0.02), abs(changed.mlp_dim / width / proportion - 1), changed))
    return min(found, key=lambda entry: entry[:2])[2]
