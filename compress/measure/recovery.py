"""What a model that is being fine-tuned is worth so far."""

import torch

from baselines.data import Data
from baselines.distributed import ALONE, World
from baselines.vit import VisionTransformer
from compress.measure.cost import count_batch_macs

BATCH = 512  # as for the images held out


@torch.inference_mode()
def score(model: VisionTransformer, data: Data, device: torch.device, world: World = ALONE) -> dict[str, float]:
    """Runs all test images through `model` once, each process its part of them.

    Args:
        model: on `device`, calibrated, not converted.

    Returns:
        `top1`, and `macs`: multiply-accumulates of an image alone, mean over the images.
    """
    model.eval()
    total = len(data.test.labels)
    mine = torch.arange(total)[world.part(total)]
    summed = torch.zeros(2, dtype=torch.float64)  # right answers, MACs
    for images, labels in data.batches(data.test, BATCH, device, indices=mine) if len(mine) else ():
        output = model.compute_output(images)
        right = (output.logits.argmax(1) == labels).sum().item()
        summed += torch.tensor([right, count_batch_macs(model, output).sum().item()], dtype=summed.dtype)
    top1, macs = (world.sum(summed) / total).tolist()
    return {"top1": top1, "macs": macs}
