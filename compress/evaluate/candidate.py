"""What takes part in an evaluation: one way to a file and the engine that runs it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from baselines.classifier import Classifier
from compress.evaluate.images import Images
from compress.measure.cost import Cost, measure_cost
from compress.runtimes import Runtime
from compress.runtimes.client import Worker
from compress.variant import Variant

FEW_IMAGES = 32  # of calibration, below which chance decides on ranges
COUNTED = 250  # images, after which a number of tokens that was always the same is taken to be fixed
Start = Callable[[Path, str, int], Worker]
"""(artifact, device, threads) -> a worker of a process that is not ours."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A variant, a recipe and an engine; nothing is built before it has to be.

    Args:
        build: writes the artifact and gives its path; raises RuntimeError or InputError where that fails.
        built: whether the artifact is there already, of an earlier run.
        key: hash of all that the artifact depends on.
        recipe: what tells it from other candidates of the same variant and runtime.
        methods: of the variant, as rows carry them.
        dense: whether others are compared with it, in its runtime; in torch it is also what `overall` refers to.
        cost: what the model computes for images, the same function for candidates of one model; None: not known.
        model: gives the model, not converted, for the pictures of a row; None: there are none.
        shallow: the same of a model with only so many of its blocks, which is built sooner; None: there is none.
        start: starts a worker of another program than ours.
        facts: further fields of its rows.
    """

    variant: str
    runtime: Runtime
    build: Callable[[], Path]
    key: str
    recipe: str | None = None
    methods: tuple[dict[str, Any], ...] = ()
    dense: bool = False
    dtype: str = "fp32"
    fallback_dtype: str | None = None
    cost: Callable[[], Cost] | None = None
    model: Callable[[], Classifier] | None = None
    record: Path | None = None  # of its training
    shallow: Callable[[int], "Candidate"] | None = None
    start: Start | None = None
    built: Callable[[], bool] = lambda: False
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # warnings of its rows
    unavailable: str | None = None  # why it cannot be measured at all

    @property
    def name(self) -> str:
        recipe = f" ({self.recipe})" if self.recipe else ""
        return f"{self.variant}{recipe} in {self.runtime.name}"

    @property
    def slow_to_build(self) -> bool:
        """Whether compiling or another program's search for ranges takes longer than measuring what comes of it."""
        return self.runtime.compiles_long or self.runtime.calibrates_itself


def share_cost(model: Callable[[], Classifier], images: Images) -> Callable[[], Cost]:
    """A function that counts once, when it is first asked, what a model computes for the images of an evaluation.

    One image says whether tokens leave at all, a few batches whether the image decides on how many; only then are all
    of them run.
    """

    @cache
    def count() -> Cost:
        counted = model()
        for count in (1, COUNTED, len(images)):
            some = range(min(count, len(images)))
            spent = measure_cost(counted, map(torch.from_numpy, images.batches(images.batch_size, some)))
            if spent.tokens_nL is None or (count > 1 and spent.fixed) or count >= len(images):
                break
        return spent

    return count


def describe_variant(which: Variant) -> dict[str, Any]:
    """The fields of a candidate that its variant decides."""
    numeric = which.methods[-1] if which.methods else None
    fallback = getattr(numeric, "fallback_dtype", None)
    return {
        "variant": which.name,
        "methods": tuple(which.describe()),
        "dense": not which.methods,
        "dtype": which.dtype,
        "fallback_dtype": fallback,
    }


def warn_of_few_images(which: Variant, count: int) -> tuple[str, ...]:
    """What rows of an int8 variant say where hardly any image calibrated it."""
    if which.dtype != "int8" or count >= FEW_IMAGES:
        return ()
    return (f"ranges come from {count} images: fewer than {FEW_IMAGES} leave much to chance",)
