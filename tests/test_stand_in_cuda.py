"""The device that stands in for CUDA, and what of placement is no method or training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stand_in_cuda import stand_in_cuda
from test_placement import CUDA

from baselines.augment import Dice
from baselines.decoding import FileSplit
from baselines.ragged import Ragged
from baselines.recipe import TrainConfig
from baselines.views import draw_views
from compress.runtimes.base import Inspection, Session
from compress.runtimes.server import Server


def test_a_batch_that_is_padded_comes_back_as_it_was() -> None:
    """As in an exported graph."""
    with stand_in_cuda():
        layout = Ragged.full(2, 3, CUDA).select(torch.tensor([0, 1, 2, 4]).to(CUDA))
        x_TD, layout.padded = torch.randn(4, 5).to(CUDA), True
        assert torch.equal(layout.join([part for part, _ in layout.split(x_TD)]), x_TD)


def test_files_reach_the_device_and_nothing_waits_for_them(tmp_path: Path) -> None:
    for index in range(2):
        Image.fromarray(np.full((16, 12), index, np.uint8)).save(tmp_path / f"{index}.png")
    split = FileSplit(sorted(tmp_path.glob("*.png")), torch.arange(2), (16, 12), 1)
    views = draw_views(TrainConfig(crop_scale=0.5), Dice(torch.Generator(), 2, slice(None)))
    with stand_in_cuda() as seen:
        for batches in (split.fetch([torch.arange(2)], CUDA), split.fetch([torch.arange(2)], CUDA, [views])):
            (batch,) = batches
            assert batch.device.type == "cuda"
            assert batch.shape == (2, 1, 16, 12)
        assert not seen.waits


def test_words_of_cuda_for_memory_that_is_full() -> None:
    """Torch's own class and sentence; how a bench goes on with half the batch is in test_resilience.py."""

    class Full(Session):
        device_name = "stand-in"

        def put(self, images: np.ndarray) -> np.ndarray:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"
            )

        def run(self, images: np.ndarray) -> np.ndarray:
            return images

        def get(self, logits: np.ndarray) -> np.ndarray:
            return logits

    answer = Server(Full(), lambda: Inspection("fp32"), float).answer({"do": "put", "name": "x"}, [np.zeros(1)])
    assert answer["out_of_memory"]


def test_the_stand_in_refuses_what_cuda_refuses() -> None:
    with stand_in_cuda() as seen:
        here, there = torch.ones(3), torch.ones(3, device=CUDA)
        mixed = [lambda: here + there, lambda: torch.cat([here, there]), lambda: here[there.long()], there.numpy]
        mixed += [lambda: torch.stack([there.sum(), here.sum()]), lambda: torch.where(here > 0, there, there)]
        mixed += [lambda: here.sum().add_(there.sum())]
        for each in mixed:
            with pytest.raises((RuntimeError, TypeError), match="device"):
                each()
        assert (there * here.sum()).device.type == "cuda"  # a number of the host goes along
        assert (there + there.cpu().to(CUDA)).tolist() == [2, 2, 2]
        assert {what for what, *_ in seen.waits} == {"to the host", "to the device", "tolist"}
