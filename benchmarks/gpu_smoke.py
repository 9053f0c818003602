"""Does a method work on a device? The same small model there and on a CPU: logits of what ships, loss of training."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from gpu_steps import Setup
from material import Material, make_noise

from baselines.data import Data, TensorSplit
from baselines.train import TrainConfig, fit
from baselines.vit import VisionTransformer, ViTConfig
from compress import runtimes, variant
from compress.training import finetuning
from compress.variant import Variant

SETTINGS: dict[str, dict[str, Any]] = {"avit": {"gate_scale": 4.0}}
QUICK: dict[str, dict[str, Any]] = {  # what a miniature leaves out of calibration
    "int8": {"observer": "minmax", "reconstruct": False, "weigh": False, "rescale": False},
    "qat": {"recipe": "short"},
}
# Of the logits of an image, ||got - expected|| / ||expected||; integers are rounded to another level at a border
TOLERANCES = {"fp32": 2e-3, "bf16": 0.05, "int8": 0.05, "int4": 0.02, "fp8": 0.1}
AGREEING = 0.9  # of the images; one whose token is kept or not by a hair's breadth may differ
LOSS = 0.02  # by what share that of the first steps may differ
RANDOM = {"dynamicvit": 0.5}  # ... where a device draws other numbers than a CPU
IMAGES, BATCH = 32, 8
TRAIN = TrainConfig(steps=2, batch_size=BATCH, warmup_epochs=0, precision="fp32", matmul="highest", crop_padding=1)


def parse(setup: Setup, name: str) -> Variant:
    return variant.parse(name, SETTINGS | (QUICK if setup.miniature else {}))


def make_material(setup: Setup) -> Material:
    size: dict[str, Any] = {"image_size": (8, 8), "patch_size": 2, "dim": 32, "mlp_dim": 64}
    if not setup.miniature:
        size = {"image_size": (64, 64), "patch_size": 8, "dim": 128, "mlp_dim": 256}
    config = ViTConfig(**size, depth=4, heads=2)
    return make_noise(config, IMAGES, setup.artifacts / "smoke", torch.device(setup.device))


def infer(setup: Setup, name: str, runtime: str, _seconds: float) -> Mapping[str, Any]:
    """Raises AssertionError where a device answers otherwise than a CPU."""
    material, methods = make_material(setup), parse(setup, name).methods
    images, engine = material.calibration.numpy(), runtimes.get(runtime)
    answers = []
    for place, each in (("cpu", runtimes.get("torch")), (setup.device, engine)):
        session = each.load(material.build(each.name, methods), place, setup.threads, len(images))
        answers.append(session.get(session.run(session.put(images))))
    expected, got = answers
    assert np.isfinite(got).all(), "logits are not finite"
    error_k = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
    tolerance = TOLERANCES[Variant(methods).dtype]
    facts = {"median_error": float(np.median(error_k)), "largest_error": float(error_k.max()), "tolerance": tolerance}
    agreeing = float((error_k <= tolerance).mean())
    assert agreeing >= AGREEING, f"{agreeing:.0%} of the images agree with a CPU: {facts}"
    return facts


def train(setup: Setup, name: str, precision: str, _seconds: float) -> Mapping[str, Any]:
    """Raises AssertionError where the loss of the first steps is another one than on a CPU."""
    config, losses = TRAIN.model_copy(update={"precision": precision}), {}
    dense = make_material(setup).model
    for device in dict.fromkeys(("cpu", setup.device)):
        history = [*train_on(torch.device(device), dense, parse(setup, name), config)]
        losses[device] = history[0]["loss"]
    here, there = losses["cpu"], losses[setup.device]
    tolerance = next((share for method, share in RANDOM.items() if method in name), LOSS)
    assert abs(there / here - 1) <= tolerance, f"the loss is {there:.5f}, on a CPU {here:.5f}"
    return {"loss": there, "loss_on_cpu": here}


def train_on(
    device: torch.device, dense: VisionTransformer, which: Variant, config: TrainConfig
) -> Iterator[Mapping[str, float]]:
    """The records of a training of noise."""
    generator = torch.Generator().manual_seed(0)
    shape = IMAGES, dense.config.channels, *dense.config.image_size
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    split, zeros = TensorSplit(pixels, torch.arange(IMAGES) % dense.config.classes), (0.5,) * dense.config.channels
    data = Data("noise", tuple(map(str, range(dense.config.classes))), split, split, zeros, zeros)
    common: dict[str, Any] = {"device": device, "seed": 0, "title": which.name}
    if not which.methods:
        yield from fit(copy.deepcopy(dense), data, config, **common)
        return
    calibration = [data.normalize(pixels)]
    settings: dict[str, Any] = {"teacher": copy.deepcopy(dense), "training": config, "calibration": calibration}
    yield from finetuning.apply(dense, [], which.methods, data, **settings, **common)[1]
