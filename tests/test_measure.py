"""Latency against a clock that is known, statistics against closed forms, cost against what really ran."""

import numpy as np
import pytest
import torch

from baselines.ragged import GROUP_SIZE, Ragged, padded_widths
from compress.measure import latency, statistics
from compress.measure.memory import cold_start
from compress.rows import typed_command


class FakeMachine:
    """Work that takes known time on a clock of its own, on a machine that slows down and stutters."""

    def __init__(self, drift: float = 0.0, noise: float = 0.0):
        self.now, self.drift, self.random = 0.0, drift, np.random.default_rng(0)
        self.noise, self.order = noise, []

    def clock(self) -> float:
        return self.now

    def job(self, name: str, seconds: float):  # type: ignore[no-untyped-def]
        def run(_batch: int) -> None:
            self.order.append(name)
            self.now += seconds * (1 + self.drift * self.now) * (1 + self.noise * self.random.exponential())

        return run


def measure(machine: FakeMachine, **jobs: float) -> dict[str, latency.Timing]:
    contestants = {name: machine.job(name, seconds) for name, seconds in jobs.items()}
    return latency.interleave(contestants, budget_s=20, clock=machine.clock)


def test_a_known_time_and_a_known_ratio() -> None:
    timings = measure(FakeMachine(), a=0.010, b=0.008)
    assert timings["a"].samples == pytest.approx([0.010] * len(timings["a"].samples))
    assert latency.speedup(timings["a"], timings["b"]) == pytest.approx((1.25, 1.25, 1.25))
    assert latency.warnings(timings["a"]) == []


def test_a_machine_that_becomes_twice_as_slow_does_not_change_the_ratio() -> None:
    timings = measure(FakeMachine(drift=0.06, noise=0.2), a=0.010, b=0.009)
    middle, low, high = latency.speedup(timings["a"], timings["b"])
    assert low < 10 / 9 < high
    assert middle == pytest.approx(10 / 9, rel=0.03)
    assert any(warning.startswith("drifting") for warning in latency.warnings(timings["a"]))


def test_the_same_job_twice_is_not_found_faster() -> None:
    timings = measure(FakeMachine(noise=0.5), a=0.010, b=0.010)
    _, low, high = latency.speedup(timings["a"], timings["b"])
    assert low < 1 < high
    assert any(warning.startswith("noisy") for warning in latency.warnings(timings["a"]))


def test_turns_alternate_in_random_order() -> None:
    machine = FakeMachine()
    timings = measure(machine, a=0.1, b=0.1)
    rounds = len(timings["a"].turns)
    assert rounds == len(timings["b"].turns) >= 15
    turns = machine.order[10:]  # five calls each to warm up
    pairs = [turns[i] + turns[i + 2] for i in range(0, len(turns), 4)]  # two calls a turn: one uncounted, one counted
    assert set(pairs) == {"ab", "ba"}


def test_wilson_and_mcnemar_against_closed_forms() -> None:
    low, high = statistics.wilson(90, 100)
    z, p, n = 1.959963985, 0.9, 100
    centre, half = (p + z * z / 2 / n), z * (p * (1 - p) / n + z * z / 4 / n / n) ** 0.5
    assert (low, high) == pytest.approx(((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)))
    right = np.ones(20, bool)
    wrong_on_five = right.copy()
    wrong_on_five[:5] = False
    assert statistics.mcnemar(right, wrong_on_five) == pytest.approx(2 / 2**5)
    assert statistics.mcnemar(right, right) == 1


def test_padding_is_counted_as_it_happens() -> None:
    counts = torch.randint(1, 30, (3 * GROUP_SIZE + 5,), generator=torch.Generator().manual_seed(0))
    layout = Ragged.full(len(counts), 30, torch.device("cpu"))
    rows = torch.cat([torch.arange(n) + 30 * i for i, n in enumerate(counts.tolist())])
    layout = layout.select(rows)
    really = sum(part.shape[0] * part.shape[1] ** 2 for part, _ in layout.split(torch.zeros(len(rows), 1)))
    assert padded_widths(counts[:, None]).square().sum() == really
    assert padded_widths(counts[:, None], len(counts)).unique().tolist() == [counts.max()]


def test_the_command_in_a_report_can_be_typed_again() -> None:
    assert typed_command(["/x/run_bench.py", "--out", "a b"]) == "python run_bench.py --out 'a b'"
    assert typed_command(["/x/bin/compress", "bench"]) == "compress bench"
    assert typed_command(["/x/compress/__main__.py", "bench"]) == "python -m compress bench"


def test_a_process_that_fails_says_why(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RuntimeError, match=r"nothing\.onnx"):
        cold_start("onnxruntime", tmp_path / "nothing.onnx", "cpu", 1, (1, 1, 8, 8))
