"""The compression methods, in the order the documentation lists them. A new one is one line here."""

from compress.methods.avit import AViT
from compress.methods.base import Method, Stage
from compress.methods.bf16 import Bf16
from compress.methods.distill import Distill
from compress.methods.dynamicvit import DynamicViT
from compress.methods.fp8 import Fp8
from compress.methods.int4 import Int4
from compress.methods.int8 import Int8
from compress.methods.narrow import Narrow
from compress.methods.qat import Qat
from compress.methods.slim import Slim
from compress.methods.tome import ToMe
from compress.methods.topk import TopK

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (AViT, TopK, DynamicViT, ToMe, Slim, Distill, Int8, Qat, Int4, Fp8, Bf16, Narrow)
}

__all__ = ["METHODS", "Method", "Stage"]
