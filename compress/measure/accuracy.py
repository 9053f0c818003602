"""Which test images a model gets right."""

from collections.abc import Callable

import numpy as np
import torch

from baselines.data import Data

BATCH = 250


def predict(run: Callable[[np.ndarray], np.ndarray], data: Data) -> np.ndarray:
    """Predicted class of every test image, (n,).

    Args:
        run: normalised images (B, C, height, width) float32 -> logits (B, classes).
    """
    batches = data.batches(data.test, BATCH, torch.device("cpu"))
    return np.concatenate([run(images.numpy()).argmax(1) for images, _ in batches])
