"""What stands in one row of a variant only, since it is the same in all of them and long."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from baselines.vit import VisionTransformer
from compress.evaluate.measurement import Measurement
from compress.measure import cost, examples

if TYPE_CHECKING:
    from compress.evaluate.figures import Group

MANY_CLASSES = 100  # above it a confusion matrix says little and fills the file


def describe_once(group: "Group", each: Measurement) -> dict[str, Any]:
    """What is the same in every row of a variant, and long."""
    images, candidate = group.images, each.candidate
    figures: dict[str, Any] = {"classes": list(images.classes) or None}
    complete = images.labels is not None and len(each.predicted_k) == len(images)
    if complete and candidate.model is not None and isinstance(model := candidate.model(), VisionTransformer):
        figures["examples"] = show_examples(group, each, model)
    if candidate.cost is not None and candidate.cost().fixed and candidate.dtype in ("fp32", "bf16"):
        figures["macs_counters"] = cost.count_with_libraries(candidate.cost())  # they see no integer products
    if complete and images.labels is not None and len(images.classes) <= MANY_CLASSES:
        pairs = np.zeros((len(images.classes), len(images.classes)), int)
        np.add.at(pairs, (images.labels, each.predicted_k), 1)
        figures["confusion"] = pairs.tolist()
    if candidate.record is not None and candidate.record.exists():
        figures["training"] = [json.loads(line) for line in candidate.record.read_text().splitlines()]
    return figures


def show_examples(group: "Group", each: Measurement, model: VisionTransformer) -> list[dict[str, Any]] | None:
    """Pictures of some test images, chosen by what the dense model says of them."""
    images, dense = group.images, group.evaluation.dense or each
    if images.data is None or images.labels is None or len(dense.predicted_k) < len(images):
        return None
    rank = images.order.argsort()  # in the order of the data set, so that the choice depends on nothing else
    chosen = examples.choose_images(images.labels[rank], dense.predicted_k[rank])
    indices = images.order[rank][torch.as_tensor(chosen)]
    return examples.describe_images(model, images.data, indices.tolist())
