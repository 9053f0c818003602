"""Simulated runs: what is only the machine, or chance, is rarely called a difference; what is one is found."""

import math
import random
from dataclasses import replace

import pytest
from made_rows import bare, slow_down

from reports import Row
from reports.compare import compare, slower
from reports.significance import NO_DIFFERENCE, Z


def simulated(chance: random.Random, rows: int, noise: float, machine: float, changed: float = 1.0) -> list[Row]:
    """A run of programs that vary from start to start, on a machine that slows all of them; the last one is changed."""
    run = []
    reference = chance.lognormvariate(0, noise / math.sqrt(2))
    for i in range(rows):
        times = chance.lognormvariate(0, noise / math.sqrt(2)) * (changed if i == rows - 1 else 1)
        within = chance.lognormvariate(0, 0.005)
        row = bare(variant=f"v{i}", latency_samples_s=[0.01 * reference * machine], standing=2.5)
        row = replace(row, standing_low=2.5 * math.exp(-0.005 * Z), standing_high=2.5 * math.exp(0.005 * Z))
        run.append(slow_down(row, times * within / reference))
    return run


@pytest.mark.parametrize(("rows", "noise"), [(2, 0.012), (12, 0.012), (12, 0.04), (24, 0.08)])
def test_the_same_programs_on_a_machine_half_as_fast_are_rarely_called_different(rows: int, noise: float):
    chance = random.Random(0)
    verdicts, gates = [], 0
    for _ in range(100):
        runs = {"a": simulated(chance, rows, noise, 1.0), "b": simulated(chance, rows, noise, 2.0)}
        verdicts += [change.time for change in compare(runs).runs[0].changes]
        gates += bool(slower(runs, 0.05))
    assert sum(verdict != NO_DIFFERENCE for verdict in verdicts) <= len(verdicts) / 20
    assert gates <= 5 or noise > 0.02  # many noisy rows have many chances


def test_a_row_that_is_ten_percent_slower_is_found_between_quiet_runs():
    chance, found, others = random.Random(1), 0, 0
    for _ in range(50):
        runs = {"a": simulated(chance, 12, 0.01, 1.0), "b": simulated(chance, 12, 0.01, 2.0, changed=1.1)}
        *same, changed = compare(runs).runs[0].changes
        found += changed.time == "slower"
        others += sum(change.time != NO_DIFFERENCE for change in same)
    assert found >= 47
    assert others <= 50 * 11 / 20
