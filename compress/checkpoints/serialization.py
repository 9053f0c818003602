"""Weights -> the bytes of a file."""

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def serialize_torch(content: Mapping[str, Any]) -> bytes:
    """Tensors and plain values in torch's zip format."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def serialize_safetensors(state: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file. Every tensor is copied: the format refuses those that share memory."""
    import safetensors.torch

    copies = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    return safetensors.torch.save(copies, metadata)
