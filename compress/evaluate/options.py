"""How an evaluation goes, and what all of its rows carry."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.evaluate.candidate import Candidate
from reports import Row

Hopeless = Callable[[str, Mapping[str, Row]], str | None]
"""Why a candidate need not see all images, by its name and the rows of all with the accuracy of a sample."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The fastest of some candidates that keeps the accuracy: others need no more than is known once they cannot win.

    Args:
        wanted: which candidates the choice is among; the rest are rivals that it is compared with.
        max_drop: of top-1 against the dense model, as a share. None: a loss of at most `LOSS`, or one that is not
            statistically significant.
    """

    wanted: Callable[[Candidate], bool]
    max_drop: float | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a person asked of the measurement."""

    verb: str
    base: str = "vit"  # name of the dense variant
    devices: tuple[str, ...] = ("cpu",)
    batch_sizes: tuple[int, ...] = (1,)
    threads: int = 1
    precision: float = 0.03  # half the width of a speed-up's interval, as a share of it, at which timing ends
    seconds: float = 20.0  # of timing for each device and batch size, at most
    goal: Goal | None = None
    hopeless: Hopeless | None = None  # asked of each candidate after timing and a sample of the images
    sample: int = 512  # images of that sample
    exhaustive: bool = False  # measure every candidate to the end, whatever the goal
    break_even: bool = False  # go on to larger batches until every variant has won
    remeasure: bool = False
    out: Path | None = None  # run directory that takes the rows
    kept: Path | None = None  # folder where the classes of scored images outlive an interruption
    seed: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # warnings that belong to every row
    command: str = field(default_factory=lambda: describe_command(sys.argv))


def describe_command(argv: Sequence[str]) -> str:
    """What a person types to have the same again."""
    name = Path(argv[0]).name
    start = ["python", "-m", "compress"] if name == "__main__.py" else ["python", name]
    return shlex.join([*(start if name.endswith(".py") else [name]), *argv[1:]])
