"""Can the timing be trusted on a device? One artifact twice, and work that is known to be a tenth more."""

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any

import trust
from gpu_steps import Setup

RUNS = 2
NEAR = 0.03  # of the true ratio


def compare(setup: Setup, kind: str, _seconds: float) -> Mapping[str, Any]:
    """Raises AssertionError where a ratio is not near the truth."""
    options = argparse.Namespace(
        runs=1 if setup.miniature else RUNS,
        batch_size=1 if setup.miniature else 64,
        seconds=0.1 if setup.miniature else 5.0,
        precision=0.01,
        quiet=True,
        runtime="torch",
        device=setup.device,
        threads=setup.threads,
    )
    setup.artifacts.mkdir(exist_ok=True)
    workers = {
        "same": partial(trust.same, options, setup.artifacts),
        "work": partial(trust.known, "work", trust.REPETITIONS, setup.device),
    }
    true = {"same": 1.0, "work": 1 / trust.TENTH}[kind]
    names = ("ratio", "low", "high", "rounds", "median_s")
    found = [dict(zip(names, run, strict=True)) for run in trust.runs(kind, workers[kind], options)]
    facts = {"true_ratio": true, "runs": found}
    far = [run["ratio"] for run in found if abs(run["ratio"] / true - 1) > NEAR]
    assert setup.miniature or not far, f"the ratio is {true:.3f}, and was measured as {far}"
    return facts
