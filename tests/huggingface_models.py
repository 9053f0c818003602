"""Models of Hugging Face's transformers, saved as they save them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import redrawn
from safetensors.torch import load_file
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

BASE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
BASE |= {"image_size": 16, "patch_size": 4, "num_labels": 5}
KINDS = {
    "vit": ("ViTForImageClassification", {}),
    "deeper": ("ViTForImageClassification", {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3}),
    "oblong": ("ViTForImageClassification", {"image_size": [8, 24], "num_channels": 1, "hidden_act": "gelu_new"}),
    "unbiased": ("ViTForImageClassification", {"qkv_bias": False, "layer_norm_eps": 0.1, "patch_size": [8, 8]}),
    "narrow": ("ViTForImageClassification", {"head_dim": 6, "hidden_act": "gelu_pytorch_tanh"}),
    "deit": ("DeiTForImageClassification", {}),
    "taught": ("DeiTForImageClassificationWithTeacher", {"patch_size": 8, "num_labels": 3}),
}


class Logits(nn.Module):
    """Their model with the answers alone: logits, or all tokens of a model without head."""

    def __init__(self, model: Any):
        super().__init__()
        self.model: Any = model

    def forward(self, images: Tensor) -> Tensor:
        said = self.model(images)
        return said.logits if "logits" in said else said.last_hidden_state


def save(folder: Path, name: str = "vit", *, binary: bool = False, **options: Any) -> Logits:
    """A model, saved, with weights of no special kind.

    Args:
        name: one of KINDS, or a class.
    """
    architecture, sizes = KINDS.get(name, (name, {}))
    config = transformers.DeiTConfig if architecture.startswith("DeiT") else transformers.ViTConfig
    model: Any = redrawn(getattr(transformers, architecture)(config(**BASE | sizes)))
    model.save_pretrained(folder, **options)
    if binary:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return Logits(model)


def edit(folder: Path, **changes: Any) -> None:
    """Changes config.json; None takes a key out."""
    settings = json.loads((folder / "config.json").read_text()) | changes
    kept = {name: value for name, value in settings.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
