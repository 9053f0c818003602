"""Test images, and what a model did with each: its answer, which patches ran how long, where it looked.

Legend: n test images, C channels, P patches of an image.
"""

import base64
import io
from collections import Counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from baselines.data import Data
from baselines.vit import VisionTransformer
from compress.measure.rollout import trace

LONGEST_SIDE = 96  # pixels of a picture that travels in a row


def choose_images(labels: np.ndarray, baseline_predicted: np.ndarray, count: int = 16) -> list[int]:
    """Which test images to show: half of them right in the baseline, half wrong, each half spread over the classes.

    Where one kind has too few, the other fills up. The choice depends on nothing else, so all variants show the same.

    Args:
        labels, baseline_predicted: classes (n,).

    Returns:
        Up to `count` indices, those that the baseline gets right first.
    """
    wrong = np.flatnonzero(baseline_predicted != labels)
    right = np.flatnonzero(baseline_predicted == labels)
    wrongs = min(len(wrong), max(count // 2, count - len(right)))
    return [*_spread(labels, right, count - wrongs, 0.0), *_spread(labels, wrong, wrongs, 0.5)]


def _spread(labels: np.ndarray, candidates: np.ndarray, count: int, shift: float) -> list[int]:
    """Up to `count` of the candidates: the first of each class, then the second, and so on.

    Where not all classes find a place, every so many is left out; `shift`, 0 to 1, says which.
    """
    of_class: Counter[int] = Counter()
    ranks = []
    for label in labels[candidates].tolist():
        ranks.append(of_class[label])
        of_class[label] += 1
    order = candidates[np.lexsort((labels[candidates], ranks))]
    if count < len(of_class):
        order = order[((np.arange(count) + shift) * len(of_class) / count).astype(int)]
    return order[:count].tolist()


def describe_images(model: VisionTransformer, data: Data, indices: list[int]) -> list[dict[str, Any]]:
    """Runs test images through a model, one at a time, and notes what it did with them.

    Args:
        model: not converted, in evaluation mode, on the CPU.

    Returns:
        For each image what `Row.examples` holds: `png` (base64; up to 96 pixels a side), `index`, `label`, `predicted`,
        `confidence` (softmax of the predicted class), `depth` (blocks of the model), `grid` (rows and columns of
        patches), and for each patch, row after row, `blocks` (in how many it ran) and `rollout` (attention rollout,
        the largest being 1).
    """
    batches = data.batches(data.test, 1, torch.device("cpu"), indices=torch.tensor(indices, dtype=torch.long))
    patches, found = slice(model.config.prefix_tokens, None), []
    for index, (image, label) in zip(indices, batches, strict=True):
        seen = trace(model, image)
        predicted, rollout_P = int(seen.logits.argmax()), seen.rollout_N[patches]
        facts = {
            "png": encode_png(image[0], data),
            "index": index,
            "label": int(label),
            "predicted": predicted,
            "confidence": round(seen.logits.softmax(0)[predicted].item(), 4),
            "depth": len(model.encoder.blocks),
            "grid": list(model.config.grid),
            "blocks": seen.blocks_N[patches].tolist(),
            "rollout": [round(share, 3) for share in (rollout_P / rollout_P.max()).tolist()],
        }
        found.append(facts)
    return found


def encode_png(image: Tensor, data: Data) -> str:
    """A normalized image (C, height, width), its normalization undone, as PNG in base64."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    pixels = ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    picture = Image.fromarray((pixels if len(image) == 3 else pixels[..., 0]).numpy())
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
