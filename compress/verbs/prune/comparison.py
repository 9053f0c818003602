"""Models before and after, scored on all test images and timed in turns, as a table."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from baselines.data import Data
from baselines.progress import progress_bar
from baselines.vit import VisionTransformer
from compress import files, variant
from compress.measure import accuracy, latency, statistics
from compress.measure.cost import of_batch
from compress.measure.latency import Timing
from compress.runtimes.eager import EagerSession
from compress.variant import Variant

SECONDS = 5.0  # of latency measurement, all models together
TIMED_IMAGES = 64  # of the test set, that latency goes through


@dataclass(frozen=True)
class Entry:
    """A model that takes part in the comparison."""

    name: str
    model: VisionTransformer
    which: Variant
    file: Path | None = None  # that holds it


@dataclass(frozen=True)
class Side:
    """One line of the comparison."""

    entry: Entry
    session: EagerSession
    predicted: np.ndarray  # class of each test image
    macs: np.ndarray  # that each of them costs
    blocks: float  # that a token runs, mean over all

    @property
    def adaptive(self) -> bool:
        """Whether images cost differently."""
        return bool((self.macs != self.macs[0]).any())


def score(entries: list[Entry], data: Data, device: torch.device) -> list[Side]:
    """Runs all test images through each model as it ships."""
    sides = []
    with progress_bar("scoring", len(entries), 0) as advance:
        for entry in entries:
            model = variant.convert(entry.model, entry.which.methods)
            session = EagerSession(model, device)
            sides.append(Side(entry, session, *_answers(model, data, device)))
            advance(entry.name)
    return sides


@torch.inference_mode()
def _answers(model: VisionTransformer, data: Data, device: torch.device) -> tuple[np.ndarray, np.ndarray, float]:
    """Predicted class and MACs of each test image, and the mean number of blocks that a token runs, in one pass."""
    predicted, macs, blocks, config = [], [], [], model.config
    for images, _ in data.batches(data.test, accuracy.BATCH, device):
        logits, aux = model.forward_aux(images)
        tokens = aux.get("tokens")
        predicted.append(logits.argmax(1))
        macs.append(of_batch(model, aux))
        ran = config.depth * torch.ones(len(images)) if tokens is None else tokens.sum(1) / config.tokens
        blocks.append(ran.double())
    return torch.cat(predicted).cpu().numpy(), torch.cat(macs).cpu().numpy(), torch.cat(blocks).mean().item()


def take_times(sides: list[Side], data: Data, batch_size: int) -> list[Timing]:
    """Times all models in turns in this process, on the same test images, in batches that are full."""
    order = torch.arange(max(TIMED_IMAGES // batch_size, 1) * batch_size) % len(data.test.labels)
    images = data.batches(data.test, batch_size, torch.device("cpu"), indices=order)
    batches = [sides[0].session.put(batch.numpy()) for batch, _ in images]

    def contestant(session: EagerSession) -> latency.Contestant:
        return latency.here(lambda number: session.run(batches[number % len(batches)]))

    timings = latency.interleave({str(i): contestant(side.session) for i, side in enumerate(sides)}, budget_s=SECONDS)
    return list(timings.values())


def compare(sides: list[Side], timings: list[Timing], data: Data, batch_size: int) -> Table:
    """A line for each model; the first is what the others are compared with."""
    before, labels = sides[0], data.test.labels.numpy()
    adaptive = any(side.adaptive for side in sides)
    table = Table(title=f"{before.entry.which.name} -> {sides[-1].entry.which.name}, torch, batch {batch_size}")
    headings = ["", "top-1 [95 %]", "p", "same class", "MACs", "ceiling", "speed-up [95 %]", "file"]
    if adaptive:
        headings[5:5] = ["10 % to 90 % of images", "blocks per token"]
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=not heading, overflow="fold")
    for side, timing in zip(sides, timings, strict=True):
        right, after, file = side.predicted == labels, side is not before, side.entry.file
        low, high = statistics.wilson(int(right.sum()), len(right))
        share = side.macs.mean() / before.macs.mean()
        ratio = latency.speedup(timings[0], timing)
        if ratio is None:
            raise RuntimeError(timings[0].failed or timing.failed)
        table.add_row(
            side.entry.name,
            f"{right.mean():.2%} [{low * 100:.2f}, {high * 100:.2f}]",
            _chance(statistics.mcnemar(right, before.predicted == labels)) if after else "",
            f"{(side.predicted == before.predicted).mean():.2%}" if after else "",
            f"{side.macs.mean() / 1e6:.2f} M, {share:.1%}",
            *(_spread(side) if adaptive else ()),
            f"{1 / share:.2f}x",
            f"{ratio[0]:.2f}x [{ratio[1]:.2f}, {ratio[2]:.2f}]" if after else "",
            f"{files.size(file) / 1e6:.2f} MB" if file else "",
        )
    return table


def _chance(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-9 else "< 1e-9"


def _spread(side: Side) -> tuple[str, str]:
    low, high = np.quantile(side.macs, [0.1, 0.9]) / 1e6
    return f"{low:.2f} to {high:.2f} M", f"{side.blocks:.2f} of {side.entry.model.config.depth}"
