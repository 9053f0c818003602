"""Structural pruning: a narrower, maybe shallower ViT out of the trained one.

Modifications to the baseline: whole heads, dimensions of queries, keys and values, neurons of MLPs and, where asked
for, residual channels and blocks leave. What ships is an ordinary `VisionTransformer`, whose blocks may differ in size.

- How much leaves where is measured on training images, at a budget (`compress/pruning/sizes.py`); `sizes` and `width`
  then say it, and the file that is made needs no data to be read.
- Which ones leave: `importance`, compared with others of the same kind alone, as in Isomorphic Pruning (Fang et al.
  2024, arXiv 2407.04616), and here of the same block.
- The Linear layers behind them are fitted to the rest before any training (`compress/pruning/compensation.py`).
- Fine-tuning, where there is any, has the dense model as teacher, whose answers get `weight` of the objective.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from pydantic import Field, model_validator
from torch import Tensor

from baselines.losses import soft
from baselines.macs import dense_macs, linear_macs
from baselines.train import Step
from baselines.vit import BlockSizes, VisionTransformer, ViTConfig
from compress.methods.base import Method, Ranges, Stage
from compress.pruning.compensation import compensate
from compress.pruning.importance import Importance, score, score_weights
from compress.pruning.rotation import rotate
from compress.pruning.search import Table, find, measure
from compress.pruning.sizes import Kind, Sizes, choose, split_evenly
from compress.pruning.structure import cut
from compress.ranges import Range

DEFAULT_KEEP = 0.8  # of the weights of the blocks
MEASURED: WeakKeyDictionary[VisionTransformer, tuple[Any, list[Tensor], Table]] = WeakKeyDictionary()


class Slim(Method):
    name: ClassVar[str] = "slim"
    stage: ClassVar[Stage] = Stage.GEOMETRY
    trains: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = True
    in_geometry: ClassVar[bool] = True
    identity: ClassVar[Mapping[str, Any]] = {"keep": 1.0}
    ranges: ClassVar[Ranges] = {"target_macs": Range(low=0.5, high=0.95, step=0.05)}

    # Share of the weights of the blocks that stays; 0.8 where target_macs does not say how much
    keep: float | None = Field(default=None, gt=0, le=1)
    # Share of the dense model's MACs that stays, instead of keep
    target_macs: float | None = Field(default=None, gt=0, le=1)
    kinds: tuple[Kind, ...] = ("heads", "qk", "v", "mlp")  # what may leave; dim: residual channels, blocks: whole ones
    importance: Importance = "taylor"  # by which those that leave are chosen
    spread: bool = True  # how much leaves where is measured; False: the same share of everything
    multiple: int = Field(default=16, gt=0, le=2**16)  # widths are multiples of this
    rotate: bool = True  # dimensions of a head that leave are the least of its principal ones, not of those it has
    compensate: bool = True  # the next Linear layers are fitted to what stays
    tune: bool = True  # False: no training follows
    weight: float = Field(default=0.5, ge=0, le=1)  # share of the dense model's answers in the objective
    temperature: float = Field(default=3.0, gt=0)  # of those answers
    # Found: heads, width of queries and keys in a head, of values in a head, and of the MLP, in each block of the dense
    # model; zeros for a block that leaves
    sizes: tuple[tuple[int, int, int, int], ...] | None = None
    width: int | None = Field(default=None, gt=0)  # found: residual channels

    @model_validator(mode="before")
    @classmethod
    def _default_amount(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("keep") is None and given.get("target_macs") is None:
            return {**given, "keep": DEFAULT_KEEP}
        return given

    @model_validator(mode="after")
    def _one_amount(self) -> "Slim":
        if self.target_macs is not None and self.keep is not None and self.sizes is None:
            raise ValueError("keep and target_macs both say how much stays; remove one of them")
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError("kinds is empty, or names one twice; name what may leave, such as heads and mlp")
        return self

    @property
    def tuned(self) -> bool:
        return self.tune

    @property
    def searches(self) -> bool:
        return self.sizes is None and self.spread and not self._keeps_all

    @property
    def _keeps_all(self) -> bool:
        return (self.target_macs or self.keep) == 1 and self.sizes is None

    def _aim(self, config: ViTConfig) -> tuple[Callable[[ViTConfig], float], float]:
        """What is to be saved, of a geometry, and how much of it may be left."""
        if self.target_macs is not None:
            return dense_macs, self.target_macs * dense_macs(config)
        return count_weights, (self.keep or 1) * count_weights(config)

    def settle(self, model: VisionTransformer, batches: list[Tensor]) -> "Slim":
        table = self._measure(model, batches)
        found = find(model.config, table, *self._aim(model.config), self.multiple)
        blocks = tuple((0, 0, 0, 0) if each is None else tuple(each) for each in found.blocks)
        return self.model_copy(update={"sizes": blocks, "width": found.dim})

    def _measure(self, model: VisionTransformer, batches: list[Tensor]) -> Table:
        """What sizes cost, once for several amounts of one model and the same images."""
        versions = [parameter._version for parameter in model.parameters()]  # those of other weights count higher
        key = (self.importance, self.rotate, self.kinds, self.multiple, versions)
        known, seen, table = MEASURED.get(model, (None, [], {}))
        if known != key or len(seen) != len(batches) or any(a is not b for a, b in zip(seen, batches, strict=True)):
            whole = rotate(model, batches) if self.rotate else model
            table = measure(whole, score(whole, batches, self.importance), batches, self.kinds, self.multiple)
            MEASURED[model] = key, list(batches), table
        return table

    def prepare(self, model: VisionTransformer) -> VisionTransformer:
        """Cut by weights alone; `initialize` cuts anew, by what training images say."""
        if self._keeps_all:
            return model
        small = cut(model, choose(model, score_weights(model), self.resolve(model.config)))
        vars(small)["cut_from"] = (model,)  # until `initialize`; no part of the module
        return small

    def resolve(self, config: ViTConfig) -> Sizes:
        """The sizes that were found or, without, the same share of everything."""
        if self.sizes is None:
            return split_evenly(config, self.kinds, *self._aim(config), self.multiple)
        blocks = tuple(BlockSizes(*each) if each[0] else None for each in self.sizes)
        return Sizes(self.width or config.dim, blocks)

    @torch.no_grad()
    def initialize(self, model: VisionTransformer, batches: list[Tensor]) -> None:
        (dense,) = model.__dict__.pop("cut_from", (None,))
        if dense is None:
            return
        device = batches[0].device
        dense = dense.to(device).eval()
        dense = rotate(dense, batches) if self.rotate else dense
        choice = choose(dense, score(dense, batches, self.importance), self.resolve(dense.config))
        small = cut(dense, choice)
        if self.compensate:
            compensate(small, dense, choice, batches)
        model.load_state_dict(small.state_dict())

    def label_weight(self) -> float:
        return 1 - self.weight

    def loss_terms(self, step: Step) -> Mapping[str, Tensor]:
        assert step.teacher_output is not None
        return {
            "dense": self.weight * soft(step.distilled_logits, step.teacher_output.logits.float(), self.temperature)
        }


def count_weights(config: ViTConfig) -> int:
    """Weights of the Linear layers of all blocks."""
    return sum(linear_macs(config, each) for each in config.blocks)
