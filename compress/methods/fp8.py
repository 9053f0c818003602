"""fp8 after training: products of 8-bit floats for the Linear layers, where a GPU has them (Ada, Hopper and later).

Modifications to the baseline: each Linear of the blocks (qkv, proj, fc1, fc2) whose sizes are multiples of 16 becomes a
`Float8Linear`; everything else is in bfloat16, as its outputs are. Nothing is trained or calibrated: weights have a
scale for each output channel, activations one for each token, found while it runs. Half the file of bf16, about.
"""

from typing import ClassVar

from baselines.vit import VisionTransformer
from compress.methods.base import Method, Stage
from compress.quantization.bfloat16 import convert_to_bf16
from compress.quantization.float8 import Float8Linear, find_unfit
from compress.quantization.linear import quantized_layers, replace_linears


class Fp8(Method):
    name: ClassVar[str] = "fp8"
    stage: ClassVar[Stage] = Stage.NUMERICS
    dtype: ClassVar[str] = "fp8"

    skip: tuple[str, ...] = ()  # layers that stay in bf16: blocks.0.mlp.fc2, or fc2, with * for anything

    @property
    def fallback(self) -> str:
        return "bf16"

    def prepare(self, model: VisionTransformer) -> VisionTransformer:
        blocks = model.encoder.blocks
        left = {name: blocks.get_submodule(name) for name in find_unfit(blocks)}
        replace_linears(blocks, self.skip, "token", signed=True, prefix="blocks.")
        for name, layer in quantized_layers(blocks).items():
            blocks.set_submodule(name, left.get(name) or Float8Linear(layer.weight, layer.bias))
        return convert_to_bf16(model)

    def convert(self, model: VisionTransformer) -> VisionTransformer:
        for module in model.modules():
            if isinstance(module, Float8Linear):
                module.pack_()
        return model
