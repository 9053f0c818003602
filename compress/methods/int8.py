"""int8 after training: integer matrix products for the Linear layers.

Modifications to the baseline: each Linear of the blocks (qkv, proj, fc1, fc2) becomes a `QuantLinear`. Tokenizer, head,
LayerNorm, softmax, GELU and residual additions stay in float: quantizing them too triples the error for no speed. The
two products of attention do, unless `attention` asks for them.

Of another architecture nothing is changed here: runtimes that quantize graphs on their own do it (`quantizes`).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from pydantic import Field, model_validator
from torch import Tensor

from baselines.classifier import Classifier
from baselines.errors import InputError
from baselines.vit import VisionTransformer
from compress.methods.base import Integers, Ranges
from compress.quantization.calibration import Recipe, calibrate
from compress.quantization.linear import Activations, QuantLinear, replace_linears, round_attention
from compress.quantization.observers import ObserverName
from compress.quantization.sixteen_bits import round_unquantized


class Int8(Integers):
    name: ClassVar[str] = "int8"
    anywhere: ClassVar[bool] = True
    identity: ClassVar[Mapping[str, Any]] = {"percentile": 100.0}  # on numbers that are levels already
    ranges: ClassVar[Ranges] = {
        "activations": ("static", "tensor", "token"),
        "fallback_dtype": ("fp32", "bf16"),
    }

    activations: Activations = "static"  # token, tensor: scales for each token, or all, are found while it runs
    observer: ObserverName = "mse"  # how the range of activations is found
    percentile: float = Field(default=99.99, gt=50, le=100)  # of activations kept, for the observer of that name
    rescale: bool = True  # channels are brought to about one range where that is free
    correct_bias: bool = True  # the mean error of each output is taken off
    reconstruct: bool = True  # weights are rounded such that errors cancel, instead of to the nearest
    weigh: bool = True  # errors count for what they do to the logits, not for their size
    attention: bool = False  # the two products of attention are in integers too

    @model_validator(mode="after")
    def _fits(self) -> "Int8":
        if self.attention and self.activations != "static":
            raise ValueError(f'attention in integers needs activations = "static", not {self.activations!r}')
        return self

    def prepare(self, model: Classifier) -> Classifier:
        if not isinstance(model, VisionTransformer):
            if self.activations != "static" or self.attention or self.signed:
                raise InputError(
                    "[methods.int8] activations, attention and signed are for Vision Transformers; leave them out for "
                    "another architecture"
                )
            return model
        make = partial(QuantLinear, activations=self.activations, signed=self.signed)
        replace_linears(model, self.skip, make)
        if self.attention:
            round_attention(model, self.signed)
        return model

    def calibrate(self, model: Classifier, batches: list[Tensor]) -> None:
        if not isinstance(model, VisionTransformer):
            return
        recipe = Recipe(self.observer, self.percentile, self.rescale, self.reconstruct, self.correct_bias, self.weigh)
        calibrate(model, batches, recipe)
        round_unquantized(model)
