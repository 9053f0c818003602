"""What a person wishes of a model, and how far from it a candidate is.

Every wish is a bound, and all that were named have to hold. What is not bounded is what the search is for: with
`--max-drop` the fastest candidate, without it the most accurate.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from baselines.errors import InputError
from reports import Row

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
AMOUNT = re.compile(r"\s*((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-zA-Zµ%]*)\s*")
SPEED_MARGIN = 0.02  # of latency and speed-up, that a choice keeps from a bound: two processes differ by as much
ERRORS = 1.0  # standard errors of a loss, that a choice keeps from `max_drop`
SURELY = 3.3  # standard errors, p of about 0.0005, from which a loss on a sample is larger than a bound
OPTIONS = {
    "max_drop": "--max-drop",
    "latency_s": "--latency",
    "file_bytes": "--file",
    "speedup": "--speedup",
    "macs": "--macs",
}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured of a candidate.

    Attributes:
        change: of top-1 against the dense model on the same images, as a share, with its 95 % interval.
        complete: whether all held-out images were scored, not a sample alone.
        speedup: over the dense model in fp32 in torch, with its 95 % interval.
        standing: latency by that of the standing reference, which every measurement times.
        macs: share of the dense model's.
    """

    change: float
    change_low: float
    change_high: float
    complete: bool
    latency_s: float
    speedup: float
    speedup_low: float
    speedup_high: float
    standing: float
    file_bytes: int
    macs: float

    @property
    def drop(self) -> float:
        return -self.change

    @property
    def error(self) -> float:
        """Standard error of `change`."""
        return (self.change_high - self.change_low) / (2 * 1.96)

    def rescale(self, reference_s: float) -> "Figures":
        """The same with the latency that it has where the standing reference takes `reference_s`."""
        return replace(self, latency_s=self.standing * reference_s)

    def align(self, known: "Figures", now: "Figures") -> "Figures":
        """The same as it would have been where one artifact had the figures `known`, and not `now` as beside this one.

        Other programs slow engines down unequally, so that neither the standing reference nor the dense model says
        how much; a candidate that is nearly as good does.
        """
        gain = known.speedup / now.speedup
        return replace(
            self,
            latency_s=self.latency_s * known.latency_s / now.latency_s,
            standing=self.standing * known.standing / now.standing,
            speedup=self.speedup * gain,
            speedup_low=self.speedup_low * gain,
            speedup_high=self.speedup_high * gain,
        )

    @classmethod
    def read(cls, row: Row) -> "Figures | None":
        """None where a row lacks what a choice needs."""
        figures: dict[str, Any] = {name: getattr(row, name) for name in ("latency_s", "standing", "file_bytes")}
        figures |= {"speedup": row.overall, "speedup_low": row.overall_low, "speedup_high": row.overall_high}
        for name in ("change", "change_low", "change_high"):  # of dense models, which others are compared with, none
            figures[name] = 0.0 if row.dense else getattr(row, f"top1_{name}")
        if row.failed is not None or None in figures.values():
            return None
        return cls(**figures, macs=1 / (row.ceiling or 1), complete=row.completed)


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """Bounds; None: there is none. `max_drop` and `macs` are shares."""

    max_drop: float | None = None
    latency_s: float | None = None
    file_bytes: float | None = None
    speedup: float | None = None
    macs: float | None = None

    @property
    def named(self) -> dict[str, float]:
        return {name: value for name in OPTIONS if (value := getattr(self, name)) is not None}

    def measure_shortfalls(self, found: Figures, *, cautious: bool = True) -> dict[str, float]:
        """How far from each wish a candidate is: 0 or less where it is met; a loss in shares, others relative.

        Args:
            cautious: whether what is measured with an error has to meet its bound by a margin.
        """
        margin, errors = (1 + SPEED_MARGIN, ERRORS) if cautious else (1.0, 0.0)
        have = {
            "latency_s": found.latency_s * margin,
            "file_bytes": found.file_bytes,
            "macs": found.macs,
        }
        short = {name: have[name] / bound - 1 for name, bound in self.named.items() if name in have}
        if self.speedup is not None:
            short["speedup"] = self.speedup * margin / found.speedup - 1
        if self.max_drop is not None:
            short["max_drop"] = found.drop + errors * found.error - self.max_drop
        return short

    def meets(self, found: Figures, *, cautious: bool = True) -> bool:
        """Whether a candidate meets all wishes."""
        return all(short <= 0 for short in self.measure_shortfalls(found, cautious=cautious).values())

    def find_surely_missed(self, found: Figures) -> str | None:
        """The option of a wish that no better measurement of a candidate would meet."""
        if self.max_drop is not None and found.drop - SURELY * found.error > self.max_drop:
            return OPTIONS["max_drop"]
        sure = Wishes(latency_s=self.latency_s, file_bytes=self.file_bytes, speedup=self.speedup, macs=self.macs)
        short = sure.measure_shortfalls(found, cautious=False)
        loose = {"latency_s": 2 * SPEED_MARGIN, "speedup": 2 * SPEED_MARGIN}
        return next((OPTIONS[name] for name, value in short.items() if value > loose.get(name, 0.0)), None)

    def describe(self) -> str:
        """`at most 0.5 points lost, 5 ms`."""
        told = {
            "max_drop": f"at most {100 * (self.max_drop or 0):g} points lost",
            "latency_s": f"at most {1e3 * (self.latency_s or 0):g} ms",
            "file_bytes": f"at most {1e-6 * (self.file_bytes or 0):g} MB",
            "speedup": f"at least {self.speedup or 0:g} times the speed of PyTorch fp32",
            "macs": f"at most {self.macs or 0:g} of the MACs",
        }
        return ", ".join(told[name] for name in self.named)


def parse_wishes(texts: Mapping[str, str | float | None]) -> Wishes:
    """Wishes as a person types them, by their names in `Wishes`.

    Raises:
        InputError: one cannot be read or met, or there is none at all.
    """
    parsers = {
        "max_drop": _parse_drop,
        "latency_s": lambda text: _parse(text, SECONDS, "--latency", "5ms"),
        "file_bytes": lambda text: _parse(text, BYTES, "--file", "8MB"),
        "speedup": lambda text: _parse(text, {"": 1.0, "x": 1.0}, "--speedup", "4"),
        "macs": _parse_share,
    }
    read = {name: parsers[name](str(text)) for name, text in texts.items() if text is not None}
    if not read:
        raise InputError(
            "nothing says what the model is to be: give --max-drop, --latency, --speedup, --file or --macs, as in "
            "--max-drop 0.5"
        )
    return Wishes(**read)


def _parse(text: str, units: Mapping[str, float], option: str, example: str) -> float:
    """`5ms` -> 0.005; raises InputError for another unit, or none where one is needed."""
    match = AMOUNT.fullmatch(text)
    factor = units.get(match[2].lower()) if match else None
    value = float(match[1]) * factor if match and factor is not None else 0.0
    if not (math.isfinite(value) and value > 0):
        known = ", ".join(dict.fromkeys(filter(None, units)))
        raise InputError(f"{option} {text!r} is not a number above 0 with a unit ({known}); write it as in {example}")
    return value


def _parse_drop(text: str) -> float:
    match = AMOUNT.fullmatch(text)
    if match is None or match[2] or float(match[1]) > 100:
        raise InputError(f"--max-drop {text!r} is not a number of points of top-1 from 0 to 100; write it as in 0.5")
    return float(match[1]) / 100


def _parse_share(text: str) -> float:
    value = _parse(text, {"": 1.0, "%": 0.01}, "--macs", "0.5")
    if value > 1:
        raise InputError(f"--macs {text!r} is more than all of the dense model's MACs; give a share, as in 0.5")
    return value
