"""A model and images that the rows of a benchmark share, and the candidates made of them."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from baselines.vit import VisionTransformer, ViTConfig
from compress import files, runtimes, variant
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import Checkpoint
from compress.evaluate import Candidate, Images, describe_variant, share_cost, take_noise
from compress.methods import Method
from compress.runtimes import BuildInputs
from compress.training import finetuning
from compress.variant import Variant

CPU = torch.device("cpu")
GEOMETRIES = {
    "cifar": ViTConfig(dim=384, depth=6, heads=6, mlp_dim=1536),
    "small": ViTConfig(dim=128, depth=6, heads=4, mlp_dim=384),
    "deit-s": ViTConfig(image_size=(224, 224), patch_size=16, dim=384, depth=12, heads=6, mlp_dim=1536, classes=1000),
    "vit-b": ViTConfig(image_size=(224, 224), patch_size=16, dim=768, depth=12, heads=12, mlp_dim=3072, classes=1000),
    "tiny": ViTConfig(image_size=(8, 8), channels=1, patch_size=2, dim=32, depth=2, heads=2, mlp_dim=64),
}


@dataclass
class Material:
    """What candidates are made of.

    Args:
        calibration: normalized images (n, C, height, width).
        images: that are scored and timed.
        folder: for artifacts; those that are there already are used again.
        device: where models are calibrated.
    """

    model: VisionTransformer
    content: Checkpoint
    calibration: Tensor
    images: Images
    folder: Path
    device: torch.device = CPU
    prepared: dict[str, VisionTransformer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pixels = hashlib.sha256(self.calibration.numpy().data).hexdigest()
        self.folder = self.folder / f"{checkpoint.hash_state(self.content.state)[:8]}-{pixels[:8]}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def prepare(self, which: Variant) -> VisionTransformer:
        """The model of some methods, calibrated; what an engine may do with the rest of it changes nothing here."""
        key = str([{**entry, "fallback_dtype": None} for entry in which.describe()])
        if key not in self.prepared:
            model = variant.prepare(self.model, which.methods).to(self.device)
            self.prepared[key] = finetuning.calibrate(model, which.methods, [self.calibration], self.device).cpu()
        return self.prepared[key]

    def build(self, runtime: str, methods: tuple[Method, ...]) -> Path:
        """The artifact of a runtime; runtimes with one kind of file share it."""
        which, engine = Variant(methods), runtimes.get(runtime)
        key = f"-{files.key(json.dumps(which.describe(), sort_keys=True))[:8]}" if methods else ""
        path = self.folder / f"{which.name}{key}{engine.suffix}"
        if not path.exists():
            model, given = self.prepare(which), self.content
            content = replace(given, methods=tuple(which.describe()), state=model.state_dict())
            if any(method.in_geometry for method in methods):
                content = replace(content, config=model.config)
            engine.build(BuildInputs(model, which, content, self.calibration, [self.calibration]), path)
        return path

    def make_candidate(self, runtime: str, methods: tuple[Method, ...], recipe: str | None = None) -> Candidate:
        which = Variant(methods)
        return Candidate(
            **describe_variant(which),
            runtime=runtimes.get(runtime),
            recipe=recipe,
            build=partial(self.build, runtime, methods),
            key=f"{self.folder.name} {which.describe()}",
            cost=share_cost(lambda: self.prepare(which), self.images),
        )


def make_noise(
    config: ViTConfig, count: int, folder: Path, device: torch.device = CPU
) -> Material:  # fmt: skip
    """Random weights and images: times are real, classes say nothing."""
    torch.manual_seed(0)
    model = VisionTransformer(config).eval()
    calibration, images = torch.randn(2, count, config.channels, *config.image_size)
    with torch.no_grad():  # one class lies a little apart, or rounding would decide between many that are alike
        logits = model(calibration[:8])
        model.head.bias[logits.mean(0).argmax()] += logits.std()
    classes = tuple(str(index) for index in range(config.classes))
    zeros = (0.0,) * config.channels
    content = Checkpoint(config, (), model.state_dict(), "noise", classes, zeros, tuple(1.0 for _ in zeros))
    return Material(model, content, calibration, take_noise(images.numpy()), folder, device)
