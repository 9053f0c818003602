"""Latency against a clock that is known, statistics against closed forms, cost against what really ran."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from baselines.output import EncoderOutput
from baselines.ragged import padded_widths
from baselines.vit import Encoder, VisionTransformer, ViTConfig
from compress import variant
from compress.evaluate.options import describe_command
from compress.measure import cost, latency, load, statistics
from compress.methods import Bf16


class FakeMachine:
    """Work that takes known time on a clock of its own, on a machine that slows down and stutters."""

    def __init__(self, drift: float = 0.0, noise: float = 0.0, seed: int = 0):
        self.now, self.drift, self.random = 0.0, drift, np.random.default_rng(seed)
        self.noise, self.order = noise, []

    def clock(self) -> float:
        return self.now

    def job(self, name: str, seconds: float):  # type: ignore[no-untyped-def]
        def run(_batch: int) -> None:
            self.order.append(name)
            self.now += seconds * (1 + self.drift * self.now) * (1 + self.noise * self.random.exponential())

        return run


def time_in_process(run: Callable[[int], object], clock: Callable[[], float]) -> latency.Timer:
    def turn(first: int, calls: int, uncounted: int) -> list[float]:
        for number in range(first - uncounted, first):
            run(number)
        samples = []
        for number in range(first, first + calls):
            before = clock()
            run(number)
            samples.append(clock() - before)
        return samples

    return turn


def measure(machine: FakeMachine, **jobs: float) -> dict[str, latency.Timing]:
    contestants = {name: time_in_process(machine.job(name, seconds), machine.clock) for name, seconds in jobs.items()}
    return latency.interleave(contestants, budget_s=20, clock=machine.clock)


def test_a_known_time_and_a_known_ratio() -> None:
    timings = measure(FakeMachine(), a=0.010, b=0.008)
    assert timings["a"].samples == pytest.approx([0.010] * len(timings["a"].samples))
    alike = latency.PROCESS_SPREAD
    assert latency.speedup(timings["a"], timings["b"]) == pytest.approx((1.25, 1.25 * (1 - alike), 1.25 * (1 + alike)))
    assert latency.warnings(timings["a"]) == []


def test_a_machine_that_becomes_twice_as_slow_does_not_change_the_ratio() -> None:
    inside = 0
    for seed in range(10):
        timings = measure(FakeMachine(drift=0.06, noise=0.2, seed=seed), a=0.010, b=0.009)
        middle, low, high = latency.speedup(timings["a"], timings["b"]) or (0, 0, 0)
        assert middle == pytest.approx(10 / 9, rel=0.03)
        inside += low < 10 / 9 < high
        assert any(warning.startswith("drifting") for warning in latency.warnings(timings["a"]))
    assert inside >= 9


def test_the_same_job_twice_is_not_found_faster() -> None:
    inside = 0
    for seed in range(20):
        timings = measure(FakeMachine(noise=0.5, seed=seed), a=0.010, b=0.010)
        _, low, high = latency.speedup(timings["a"], timings["b"]) or (0, 0, 0)
        inside += low < 1 < high
        assert any(warning.startswith("noisy") for warning in latency.warnings(timings["a"]))
    assert inside >= 18


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
    tokens_nL = torch.tensor([[5, 4], [5, 1], [5, 2]])  # batches of two: the last is alone
    assert padded_widths(tokens_nL[:2]).tolist() == [[5, 4], [5, 4]]
    config = ViTConfig(image_size=8, patch_size=4, dim=4, depth=2, heads=1, mlp_dim=4)
    spent = cost.Cost(0, 0, VisionTransformer(config), tokens_nL)
    extra = 2 * 4 * (4 * 4 - 1 * 1) / 3  # both products of attention, of the second image, in the second block
    assert spent.executed(2, padded=True) == pytest.approx(spent.executed(2, padded=False) + extra)
    assert spent.executed(1, padded=True) == spent.executed(1, padded=False)


def test_the_command_in_a_report_can_be_typed_again() -> None:
    assert describe_command(["/x/run_bench.py", "--out", "a b"]) == "python run_bench.py --out 'a b'"
    assert describe_command(["/x/bin/compress", "bench"]) == "compress bench"
    assert describe_command(["/x/compress/__main__.py", "bench"]) == "python -m compress bench"


def test_a_comparison_ends_when_it_is_precise_and_an_open_one_goes_on() -> None:
    machine = FakeMachine()
    chance = np.random.default_rng(1)

    def shaky(_number: int) -> None:
        machine.now += 0.01 * (1 + chance.uniform(0, 2))

    contestants = {name: time_in_process(machine.job(name, 0.01), machine.clock) for name in "abc"}
    contestants["shaky"] = time_in_process(shaky, machine.clock)
    pairs = [("a", "b"), ("c", "shaky")]
    timings = latency.interleave(
        contestants, budget_s=40, comparisons=pairs, precision=0.02, clock=machine.clock, min_rounds=15
    )
    rounds = {name: len(timing.turns) for name, timing in timings.items()}
    assert rounds["a"] == rounds["b"] < 40  # as soon as it has been watched for some seconds
    assert rounds["c"] == rounds["shaky"] > 2 * rounds["a"]
    middle, low, high = latency.speedup(timings["c"], timings["shaky"]) or (0, 0, 0)
    assert low < 0.5 < high  # 1 + what is 1 on average
    assert (high - low) / 2 <= 0.02 * middle or machine.now >= 40


def test_one_that_breaks_leaves_and_the_others_go_on() -> None:
    machine, left = FakeMachine(), iter(range(20))

    def breaks(_number: int) -> None:
        if next(left, None) is None:
            raise RuntimeError("out of paper")
        machine.now += 0.01

    contestants = {"a": time_in_process(machine.job("a", 0.01), machine.clock)}
    contestants |= {"breaks": time_in_process(breaks, machine.clock)}
    timings = latency.interleave(contestants, budget_s=2, clock=machine.clock)
    assert timings["breaks"].failed == "out of paper"
    assert timings["a"].failed is None
    assert len(timings["a"].turns) >= 15 > len(timings["breaks"].turns)
    assert latency.speedup(timings["a"], latency.Timing(failed="never ran")) is None


def test_a_sample_under_a_millisecond_is_said() -> None:
    timings = measure(FakeMachine(), a=0.0005)
    assert latency.warnings(timings["a"]) == [
        "one forward pass takes less than 1 ms: the call itself and the clock are a part of it"
    ]


def test_other_programs_are_told_from_our_own() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinner:
        try:
            foreign, own = load.Watch([], "cpu"), load.Watch([spinner.pid], "cpu")
            time.sleep(1)
            shares = [load.Usage(each.own).foreign_share(each.first) for each in (foreign, own)]
            said = foreign.warnings()
        finally:
            spinner.kill()
    assert shares[0] > shares[1]  # however busy the machine is, it had a part of it
    assert (shares[0] > load.FOREIGN_SHARE) == any("other programs took" in words for words in said)


def test_other_users_of_a_gpu_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '41, /usr/bin/python3'\necho '77, /opt/other thing'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert load.gpu_processes({41}) == ["other thing (77)"]
    assert load.Watch([41], "cuda").warnings()[-1] == "other load: the GPU is also used by other thing (77)"
    assert load.Watch([41, 77], "cuda").warnings()[-1:] != ["other load: the GPU is also used by other thing (77)"]


class Halving(Encoder):
    """Every second patch leaves after the first block: a schedule of tokens that is the same for all images."""

    def forward(self, x_BND: torch.Tensor) -> EncoderOutput:
        widths = []
        for index, block in enumerate(self.blocks):
            x_BND = torch.cat([x_BND[:, :1], x_BND[:, 1::2]], 1) if index == 1 else x_BND
            widths.append(x_BND.shape[1])
            x_BND = block(x_BND)
        return EncoderOutput(x_BND, torch.tensor(widths).expand(len(x_BND), -1))


def test_four_counters_agree_where_shapes_are_fixed() -> None:
    """On fewer tokens in later blocks too, and on bf16; by hand: 17 tokens, then 9."""
    config = ViTConfig(image_size=8, patch_size=2, dim=16, depth=3, heads=2, mlp_dim=32, classes=5)
    model = VisionTransformer(config).eval()
    model.encoder = Halving(model.encoder.blocks)
    block = {n: n * 16 * (3 * 16 + 16 + 2 * 32) + 2 * n * n * 16 for n in (17, 9)}
    by_hand = 16 * 16 * (3 * 2 * 2) + block[17] + 2 * block[9] + 16 * 5
    for each in (model, variant.prepare(model, [Bf16()])):
        spent = cost.Cost(0, 0, each, torch.tensor([[17, 9, 9]] * 4))
        assert spent.fixed
        counted = cost.count_with_libraries(spent)
        assert counted == dict.fromkeys(["closed form", "fvcore", "thop", "torch FlopCounterMode"], by_hand)
        assert cost.disagreements(counted) == []
    assert cost.disagreements(counted | {"thop": 5.0}) == [
        f"thop counts 5 MACs for one image, the closed form {by_hand:,}"
    ]
    assert not cost.Cost(0, 0, model, torch.tensor([[17, 9, 9], [17, 9, 8]])).fixed
