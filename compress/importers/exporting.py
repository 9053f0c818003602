"""What the exports to other libraries share."""

from collections.abc import Mapping
from typing import Any

from baselines.errors import InputError
from baselines.vit import ViTConfig


class Code(str):
    """Python that stands in an expression as it is."""

    __slots__ = ()
    __repr__ = str.__str__


def format_call(call: str, *first: object, **settings: Any) -> str:
    """A call, as Python writes it."""
    arguments = [*map(repr, first), *(f"{name}={value!r}" for name, value in settings.items())]
    return f"{call}({', '.join(arguments)})"


def format_layer_norm(eps: float) -> Code:
    """The expression of a norm with that epsilon."""
    return Code(f"functools.partial(torch.nn.LayerNorm, eps={eps!r})")


def check_support(library: str, config: ViTConfig, faults: Mapping[str, Any]) -> None:
    """Raises InputError where a model has something that no library here has, or one of `faults`.

    Args:
        faults: what it would have, and whether it does.
    """
    always = {
        "blocks of different sizes": config.block_sizes is not None,
        f"a tokenizer {config.tokenizer!r}": config.tokenizer != "linear",
        "pooling under learned weights (pool 'seq')": config.pool == "seq",
        "batch norm": config.norm == "batch",
        f"heads {config.head_width} wide in a model of width {config.dim}": config.inner_dim != config.dim,
    }
    for what, there in {**always, **faults}.items():
        if there:
            raise InputError(f"{library} has no models with {what}, as this one; leave it as ONNX: compress export")
