"""What stays of a Vision Transformer, and the smaller model that it makes.

Legend: D width, H heads, K width of queries and keys in a head, V of values, M width inside the MLP.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.vit import BlockSizes, VisionTransformer, ViTConfig


@dataclass(frozen=True)
class Kept:
    """What stays in one block: places in the block as it was, ascending."""

    heads_H: Tensor
    qk_HK: Tensor  # dimensions of the queries and keys of each head that stays
    v_HV: Tensor  # of its values
    mlp_M: Tensor

    @property
    def sizes(self) -> BlockSizes:
        return BlockSizes(len(self.heads_H), self.qk_HK.shape[1], self.v_HV.shape[1], len(self.mlp_M))


@dataclass(frozen=True)
class Choice:
    """What stays in a model."""

    blocks: Mapping[int, Kept]  # by place in the model as it was, ascending
    dim_D: Tensor  # residual channels


def make_config(config: ViTConfig, dim: int, blocks: list[BlockSizes]) -> ViTConfig:
    """The geometry of what is left of `config`; where all blocks are alike it is that of any Vision Transformer."""
    first = blocks[0]
    even = all(each == first for each in blocks) and first.qk_dim == first.v_dim
    head_dim = 0 if first.qk_width == dim else first.qk_dim
    convolved = config.tokenizer in ("conv", "cct") and dim != config.dim
    changes = {
        "dim": dim,
        "depth": len(blocks),
        "heads": first.heads,
        "head_dim": head_dim,
        "mlp_dim": first.mlp_dim,
        "block_sizes": None if even else tuple(tuple(each) for each in blocks),
        "tokenizer_dim": (config.tokenizer_dim or config.dim) if convolved else config.tokenizer_dim,
    }
    return ViTConfig(**{**config.model_dump(), **changes})


def cut(model: VisionTransformer, choice: Choice) -> VisionTransformer:
    """A new model of what stays, in evaluation mode; `model` is untouched.

    Queries take up the factor that keeps the scale of the scores, which depends on their width.
    """
    blocks = [kept.sizes for kept in choice.blocks.values()]
    with torch.device("meta"):
        small = VisionTransformer(make_config(model.config, len(choice.dim_D), blocks))
    state = model.state_dict()
    cut_state = {
        name: _pick(value, _places(name, model, choice.dim_D))
        for name, value in state.items()
        if not name.startswith("encoder.")
    }
    for index, (place, kept) in enumerate(choice.blocks.items()):
        before = model.config.blocks[place]
        rows = _rows(before, kept)
        values = rows[2 * kept.sizes.qk_width :] - 2 * before.qk_width
        prefix = f"encoder.blocks.{place}."
        for name, value in state.items():
            if name.startswith(prefix):
                part = _pick(value, _block_places(name.removeprefix(prefix), rows, values, kept, choice.dim_D))
                if name.startswith(f"{prefix}attn.qkv.") and kept.sizes.qk_dim != before.qk_dim:
                    part[: kept.sizes.qk_width] *= (kept.sizes.qk_dim / before.qk_dim) ** 0.5
                cut_state[f"encoder.blocks.{index}.{name.removeprefix(prefix)}"] = part
    small.load_state_dict(cut_state, assign=True)
    for name, parameter in small.named_parameters():
        parameter.requires_grad_(True)
        assert parameter.is_leaf, name
    return small.eval()


def _rows(before: BlockSizes, kept: Kept) -> Tensor:
    """Rows of the fused layer of queries, keys and values."""
    first_H1 = kept.heads_H[:, None]
    qk = (first_H1 * before.qk_dim + kept.qk_HK).flatten()
    v = (first_H1 * before.v_dim + kept.v_HV).flatten()
    return torch.cat([qk, before.qk_width + qk, 2 * before.qk_width + v])


def _block_places(name: str, rows: Tensor, values: Tensor, kept: Kept, dim_D: Tensor) -> dict[int, Tensor]:
    """Axis -> places that stay, of one tensor of a block."""
    weight = name.endswith(".weight")
    if name.startswith("attn.qkv."):
        return {0: rows, 1: dim_D} if weight else {0: rows}
    if name.startswith("attn.proj."):
        return {0: dim_D, 1: values} if weight else {0: dim_D}
    if name.startswith("mlp.fc1."):
        return {0: kept.mlp_M, 1: dim_D} if weight else {0: kept.mlp_M}
    if name.startswith("mlp.fc2."):
        return {0: dim_D, 1: kept.mlp_M} if weight else {0: dim_D}
    if name.startswith("attn."):  # norms of queries and keys
        return {0: kept.qk_HK[0]}
    return {0: dim_D}  # norms and LayerScale


def _places(name: str, model: VisionTransformer, dim_D: Tensor) -> dict[int, Tensor]:
    """Axis -> places that stay, of one tensor outside the blocks."""
    if name in ("cls_token", "distill_token", "registers", "pos_embed"):
        return {2: dim_D}
    first, _, rest = name.partition(".")
    if first == "patch_embed":
        names = [each for each, _ in model.patch_embed.named_parameters()]
        last = names[-1].rpartition(".")[0]
        normed = rest.startswith(("project.", "after."))
        return {0: dim_D} if normed or (not rest.startswith("before.") and rest.rpartition(".")[0] == last) else {}
    if first == "representation" or (first in ("head", "distill_head") and model.representation is None):
        return {1: dim_D} if rest == "weight" else {}
    if first == "sequence_pool":
        return {1: dim_D} if rest.endswith("weight") else {}
    return {0: dim_D} if first in ("norm", "pre_norm") else {}


def _pick(value: Tensor, places: Mapping[int, Tensor]) -> Tensor:
    value = value.detach().clone()
    for axis, index in places.items() if value.ndim else ():
        value = value.index_select(axis, index.to(value.device))
    return value
