"""The plain alternative to int8: weights and products in bfloat16, where the processor multiplies it in hardware.

Modifications to the baseline: every parameter and buffer becomes bfloat16; images are rounded on their way in, logits
become float32 on their way out. Nothing is trained or calibrated. Half the file.
"""

from typing import ClassVar

from baselines.classifier import Classifier
from compress.methods.base import Numerics, Ranges
from compress.quantization.sixteen_bits import convert_to_bf16


class Bf16(Numerics):
    name: ClassVar[str] = "bf16"
    ranges: ClassVar[Ranges] = {}
    dtype: ClassVar[str] = "bf16"
    anywhere: ClassVar[bool] = True

    @property
    def fallback(self) -> str:
        return "bf16"

    def prepare(self, model: Classifier) -> Classifier:
        return convert_to_bf16(model)
