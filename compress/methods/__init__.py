"""The compression methods, in the order the documentation lists them. A new one is one line here."""

from compress.methods.avit import AViT
from compress.methods.base import Floor, Method
from compress.methods.int8 import Int8

METHODS: dict[str, type[Method]] = {method.name: method for method in (AViT, Int8)}

__all__ = ["METHODS", "AViT", "Floor", "Int8", "Method"]
