"""The one harness: who leaves early and who may not, what is kept, and what a candidate's failure costs."""

import os
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made_rows import bare
from torch import Tensor

from baselines.data import Data, TensorSplit
from compress import runtimes
from compress.evaluate import (
    Candidate,
    Goal,
    Options,
    elimination,
    evaluate,
    figures,
    processes,
    take_noise,
    take_test_images,
)
from compress.evaluate.elimination import FIRST_ROUNDS, SAMPLE, find_slower, keeps_accuracy, loses_too_much
from compress.evaluate.measurement import Measurement
from compress.evaluate.selection import choose
from compress.measure import latency
from compress.measure.latency import Timing
from compress.runtimes import Inspection
from compress.runtimes.client import WorkerError
from reports import Row

COUNT = 1000  # test images, of which the last pixel of number i is i % 100
INTEGER = "int8"


def make_data() -> Data:
    """Images whose first ten pixels are their class, one-hot."""
    labels = torch.arange(COUNT) // 100
    pixels = torch.zeros(COUNT, 1, 4, 4, dtype=torch.uint8)
    pixels.flatten(1).scatter_(1, labels[:, None], 255)
    pixels[:, 0, 3, 3] = torch.arange(COUNT) % 100
    split = TensorSplit(pixels, labels)
    return Data("made up", tuple("0123456789"), split, split, (0.0,), (1.0,))


@dataclass
class Engine:
    """A worker without a process: takes known time, and is wrong on a known share of the images."""

    seconds: float
    loses: int = 0  # percent of the images of each class
    nan: bool = False
    flat: bool = False  # no class stands out in any image
    die_after: int = 10**9  # turns
    turns: int = 0
    seen: int = 0  # images that were scored
    starts: int = 0
    closed: bool = False
    process: Any = field(default_factory=lambda: SimpleNamespace(pid=os.getpid(), poll=lambda: None))

    def ready(self) -> dict[str, Any]:
        return {"load_s": 0.1, "device_name": "made up"}

    def put(self, _name: str, _batches: Sequence[np.ndarray]) -> None:
        self.closed = False

    def turn(self, _name: str, _first: int, calls: int, uncounted: int = 1) -> list[float]:
        assert uncounted >= 0
        assert not self.closed
        self.turns += 1
        if self.turns > self.die_after:
            self.process.poll = lambda: -9
            raise WorkerError("its process was ended by SIGKILL")
        return [self.seconds] * calls

    def logits(self, images: np.ndarray) -> np.ndarray:
        assert not self.closed
        self.seen += len(images)
        pixels = images.reshape(len(images), -1)
        wrong = np.round(pixels[:, -1] * 255) < self.loses
        logits = np.where(wrong[:, None], np.roll(pixels[:, :10], 1, 1), pixels[:, :10])
        return np.full_like(logits, np.nan if self.nan else 1.0) if self.nan or self.flat else logits

    def peak_memory_bytes(self) -> int:
        return 10**6

    def inspect(self) -> Inspection:
        return Inspection("fp32")

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture(autouse=True)
def standing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "start_standing", lambda *_: nullcontext(Engine(0.01)))


def make_candidate(name: str, engine: Engine, build: Callable[[], Path] = lambda: Path(__file__)) -> Candidate:
    """The dense model in torch where it is called `vit`; int8 in ONNX Runtime under any other name but `bf16`."""

    def start(*_: object) -> Any:
        engine.starts += 1
        return engine

    dense = name == "vit"
    return Candidate(
        variant="vit" if dense else "bf16" if name == "bf16" else INTEGER,
        recipe=None if name in ("vit", "bf16") else name,
        runtime=runtimes.describe("torch" if dense else "onnxruntime"),
        build=build,
        key=name,
        dense=dense,
        start=start,
    )


def run(engines: dict[str, Engine], max_drop: float | None = None, **options: Any) -> dict[str, Row]:
    """Rows by name; the choice is among what is int8."""
    goal = Goal(wanted=lambda each: each.variant == INTEGER, max_drop=max_drop)
    candidates = [make_candidate(name, engine) for name, engine in engines.items()]
    return measure(candidates, **{"goal": goal, **options})


def measure(candidates: Sequence[Candidate], **options: Any) -> dict[str, Row]:
    options = {"verb": "quantize", "seconds": 0.0, **options}
    rows = evaluate(candidates, take_test_images(make_data()), Options(**options), lambda _line: None)
    assert len(rows) == len(candidates)
    return {row.recipe or row.variant: row for row in rows}


def timing(seconds: float, rounds: int = 15) -> Timing:
    """Of a machine that becomes slower in each round, for all alike."""
    return Timing({each: [seconds * (1 + each / 10)] for each in range(rounds)}, calls=1)


# --- who can no longer win


def test_what_is_surely_slower_leaves_and_groups_do_not_mix() -> None:
    timings = {
        "best": timing(1.0),
        "tied": timing(1.01),
        "slow": timing(1.1),
        "rival": timing(5.0),
        "late": timing(6.0),
    }
    groups = [["best", "tied", "slow"], ["rival", "late"]]
    reasons = find_slower(timings, (), groups, min_rounds=15)
    assert set(reasons) == {"slow", "late"}
    assert reasons["slow"].startswith("slower than best: 0.91 [")
    assert reasons["slow"].endswith("after 15 rounds")
    assert find_slower(timings, (), [["best", "tied"], ["rival"], ["slow"]], min_rounds=15) == {}
    assert find_slower(timings, (), groups, min_rounds=15, least=0.3) == {}


def test_few_rounds_need_a_larger_distance_and_very_few_say_nothing() -> None:
    for rounds, expected in ((FIRST_ROUNDS - 1, set()), (FIRST_ROUNDS, {"far"}), (15, {"near", "far"})):
        timings = {"best": timing(1.0, rounds), "near": timing(1.05, rounds), "far": timing(1.2, rounds)}
        assert set(find_slower(timings, (), [list(timings)], min_rounds=15)) == expected


def test_what_failed_or_left_is_no_measure_for_the_others() -> None:
    timings = {"dead": timing(1.0), "gone": timing(1.0), "best": timing(2.0), "slow": timing(3.0)}
    timings["dead"].failed = "its process was ended by SIGKILL"
    reasons = find_slower(timings, {"gone"}, [list(timings)], min_rounds=15)
    assert set(reasons) == {"slow"}
    assert "slower than best" in reasons["slow"]


def test_timing_goes_on_where_it_was_and_those_that_left_get_no_more_turns() -> None:
    asked: dict[str, list[int]] = {"a": [], "b": [], "new": []}

    def contestant(name: str) -> latency.Timer:
        def turn(first: int, calls: int, uncounted: int) -> list[float]:
            if uncounted == 1:  # 2: warming up
                asked[name].append(first)
            return [0.1] * calls

        return turn

    earlier = {"a": timing(0.1, 5), "b": timing(0.1, 5)}
    kept = {name: dict(each.turns) for name, each in earlier.items()}
    timings = latency.interleave(
        {name: contestant(name) for name in asked},
        budget_s=0,
        min_rounds=9,
        timings=earlier,
        leave=lambda timings: {"b"} if len(timings["b"].turns) >= 9 else (),
    )
    assert [len(asked[name]) for name in asked] == [9, 4, 9]
    assert list(timings["a"].turns) == list(range(14))
    assert list(timings["new"].turns) == list(range(5, 14))
    assert all(timings[name].turns.items() >= kept[name].items() for name in kept)


def test_who_left_does_not_keep_others_from_ending() -> None:
    """What is compared with one that left imprecisely would be timed alone until the budget is used up."""
    clock, chance = SimpleNamespace(now=0.0), np.random.default_rng(0)

    def turn(_first: int, calls: int, _uncounted: int) -> list[float]:
        samples = [float(0.03 * chance.uniform(0.5, 2)) for _ in range(calls)]
        clock.now += 1 + sum(samples)
        return samples

    timings = latency.interleave(
        {"dense": turn, "left": turn},
        budget_s=1000,
        precision=0.001,
        comparisons=[("dense", "left")],
        leave=lambda timings: {"left"} if timings["left"].turns else (),
        clock=lambda: clock.now,
    )
    assert len(timings["dense"].turns) == latency.MIN_ROUNDS


# --- how much accuracy is lost


def predicting(wrong: int, count: int) -> Measurement:
    """Wrong on that many of `count` images of class 0."""
    made = Measurement(make_candidate("made", Engine(1)), Path(), Inspection("int8"))
    made.predicted_k = np.array([1] * wrong + [0] * (count - wrong))
    return made


def test_a_sample_rules_out_only_what_surely_loses_too_much() -> None:
    dense, labels, goal = predicting(0, 128), np.zeros(1000, int), Goal(wanted=lambda _: True)
    assert loses_too_much(predicting(10, 128), dense, labels, goal) is None  # 7.8 points, 3.3 deviations of 2.4
    reason = loses_too_much(predicting(30, 128), dense, labels, goal)
    assert reason == "loses 23.4 points of top-1 on the first 128 images"
    assert loses_too_much(predicting(30, 128), dense, labels, Goal(wanted=lambda _: True, max_drop=0.2)) is None
    assert loses_too_much(predicting(0, 128), predicting(30, 128), labels, goal) is None  # it gains
    assert loses_too_much(predicting(30, 128), dense, None, goal) is None
    assert loses_too_much(predicting(0, 0), dense, labels, goal) is None


@pytest.mark.parametrize(
    ("wrong", "max_drop", "keeps"),
    [
        (9, None, True),
        (10, None, True),  # 1 point
        (11, None, False),  # 1.1 points, and significant
        (11, 0.02, True),
        (9, 0.005, False),  # a given limit is one, however small the sample
    ],
)
def test_the_accuracy_of_all_images_is_kept_or_not(wrong: int, max_drop: float | None, keeps: bool) -> None:
    goal = Goal(wanted=lambda _: True, max_drop=max_drop)
    assert keeps_accuracy(predicting(wrong, 1000), predicting(0, 1000), np.zeros(1000, int), goal) is keeps


def test_a_loss_without_significance_is_kept() -> None:
    few = predicting(2, 20), predicting(0, 20), np.zeros(20, int)
    assert keeps_accuracy(*few, Goal(wanted=lambda _: True))
    assert not keeps_accuracy(*few, Goal(wanted=lambda _: True, max_drop=0.01))


# --- what is kept


def made(recipe: str | None, speed: float, drop: float = 0.0, sqnr: float = 30.0, **given: Any) -> Row:
    dtype = INTEGER if recipe else "fp32"
    figures = {"overall": speed, "top1_change": -drop, "mcnemar_p": 0.001 if drop else 1.0, "sqnr_db": sqnr}
    return bare(recipe=recipe, dtype=dtype, runtime="onnxruntime", **figures | given)


def pick(*rows: Row, max_drop: float | None = None) -> tuple[str | None, str]:
    among = [row for row in rows if row.recipe]
    best, why = choose(among, rows, Goal(wanted=lambda _: True, max_drop=max_drop))
    return best and best.recipe, why


def test_what_is_kept() -> None:
    plain, fast, near = made(None, 2.0), made("fast", 4.0), made("near", 3.95, sqnr=40.0)
    lossy, chance = made("lossy", 9.0, drop=0.2), made("chance", 5.0, drop=0.2, mcnemar_p=0.3)
    assert pick(plain, fast) == (
        "fast",
        "kept: onnxruntime: fast: the fastest of 1 integer files; "
        "2.00x as fast as the fastest without integers (onnxruntime: fp32)",
    )
    kept, why = pick(plain, fast, near)
    assert kept == "near"
    assert "as fast as onnxruntime: fast within 2%, and nearer to the float model" in why
    assert pick(plain, fast, made("near", 3.91, sqnr=40.0))[0] == "fast"  # more than a tie behind
    kept, why = pick(plain, fast, lossy)
    assert kept == "fast"
    assert "1 lost more than 1 points and do not count" in why
    assert pick(plain, fast, lossy, max_drop=0.3)[0] == "lossy"
    assert pick(plain, fast, chance)[0] == "chance"
    assert pick(plain, fast, chance, max_drop=0.1)[0] == "fast"
    assert "but no faster than onnxruntime: fp32 here (0.80x): what it saves is size" in pick(made(None, 5.0), fast)[1]


def test_what_left_early_or_failed_is_never_kept() -> None:
    left, broken = made("left", 9.0, eliminated="slower than fast"), made("broken", 9.0, failed="its process died")
    assert pick(made(None, 2.0), left, broken, made("fast", 4.0))[0] == "fast"
    assert pick(made(None, 2.0), left, broken) == (
        None,
        "no integer file loses at most 1 points on these images: none could be made",
    )
    nothing = {"overall": None}
    kept, why = pick(made(None, 1.0, failed="its process died", **nothing), made("fast", 4.0, **nothing))
    assert kept is None
    assert why.endswith("the model in torch, which all are compared with, could not be measured")
    kept, why = pick(made(None, 2.0), made("lossy", 4.0, drop=0.2), made("worse", 4.0, drop=0.3), max_drop=0.1)
    assert kept is None
    assert why.endswith(
        "loses at most 10 points on these images: the least that one lost is 20.00 (onnxruntime: lossy)"
    )


# --- images


class CountingData(Data):
    """Knows how many of its images were in memory at once, at most."""

    def batches(self, *args: Any, **given: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in super().batches(*args, **given):
            ALIVE.append(len(images))
            MOST.append(sum(ALIVE))
            weakref.finalize(images, ALIVE.remove, len(images))
            yield images, labels


ALIVE: list[int] = []
MOST: list[int] = []


def test_scoring_any_number_of_images_holds_a_few_batches() -> None:
    split = TensorSplit(
        torch.zeros(1, 1, 4, 4, dtype=torch.uint8).expand(50_000, -1, -1, -1), torch.arange(50_000) % 10
    )
    images = take_test_images(CountingData("many", tuple("0123456789"), split, split, (0.0,), (1.0,)))
    seen: list[int] = []
    MOST.clear()

    class Counter(Engine):
        def logits(self, images: np.ndarray) -> np.ndarray:
            seen.append(len(images))
            return np.eye(10, dtype=np.float32)[np.zeros(len(images), int)]

    with processes.Processes(images, Options(verb="bench"), "cpu", lambda _line: None) as running:
        both = [running.add(make_candidate(name, Counter(0.01)), Path(__file__), [1]) for name in "ab"]
        running.score(both, SAMPLE)
        running.score(both[:1], 2 * SAMPLE)
        running.score(both, len(images))
    assert sum(seen) == 2 * 50_000  # each image once through each, whatever they had seen before
    assert max(seen) == images.batch_size <= 250
    assert max(MOST) <= 3 * images.batch_size
    assert not ALIVE
    assert images.labels is not None
    for each in both:
        assert len(each.predicted_k) == 50_000
        assert (each.predicted_k == images.labels).mean() == pytest.approx(0.1)


def test_images_are_shuffled_alike_every_time_and_noise_has_no_labels() -> None:
    data = make_data()
    whole, part = take_test_images(data), take_test_images(data, 300)
    assert sorted(whole.order.tolist()) == list(range(COUNT))
    assert part.order.tolist() == whole.order[:300].tolist()
    assert part.fingerprint != whole.fingerprint == take_test_images(data).fingerprint
    assert part.labels is not None
    assert np.bincount(part.labels, minlength=10).min() > 10  # the data set has its classes one after another
    assert [len(batch) for batch in part.batches(128)] == [128, 128, 44]
    first = next(part.batches(300))
    assert (first.reshape(300, -1)[:, :10].argmax(1) == part.labels).all()
    assert {batch.shape for batch in take_test_images(data, 3).timed(8)} == {(8, 1, 4, 4)}

    noise = np.random.default_rng(0).standard_normal((20, 3, 4, 4), dtype=np.float32)
    images = take_noise(noise)
    assert (images.labels, len(images), images.name) == (None, 20, "noise")
    assert np.array_equal(np.concatenate([*images.batches(8)]), noise)
    (row,) = evaluate([make_candidate("vit", Engine(0.01))], images, Options(verb="x", seconds=0), lambda _: None)
    assert (row.top1, row.n_images, row.failed) == (None, None, None)
    assert row.latency_s == 0.01


# --- a whole evaluation


def test_what_cannot_win_is_neither_timed_nor_scored_to_the_end_and_the_choice_is_the_same() -> None:
    def make() -> dict[str, Engine]:
        return {
            "vit": Engine(0.1),
            "bf16": Engine(0.04),
            "fast": Engine(0.0200),
            "tied": Engine(0.0202),
            "slow": Engine(0.03),
            "lossy": Engine(0.01, loses=50),
        }

    engines, others = make(), make()
    rows, complete = run(engines), run(others, exhaustive=True)
    assert rows["slow"].eliminated is not None
    assert re.match(
        r"slower than int8 \(fast\) in onnxruntime: 0\.67 \[.*\] times its speed after \d+ rounds",
        rows["slow"].eliminated,
    )
    assert re.fullmatch(r"loses \d+\.\d points of top-1 on the first 128 images", rows["lossy"].eliminated or "")
    scored = {name: row.n_images for name, row in rows.items()}
    assert scored == {"vit": COUNT, "bf16": SAMPLE, "fast": COUNT, "tied": COUNT, "slow": SAMPLE, "lossy": SAMPLE}
    assert {name: engine.seen for name, engine in engines.items()} == scored
    assert len(rows["lossy"].latency_samples_s) == 0 < len(rows["slow"].latency_samples_s)
    assert len(rows["slow"].latency_samples_s) < len(rows["tied"].latency_samples_s)
    assert (rows["bf16"].eliminated, rows["tied"].eliminated) == (None, None)
    assert any(line.startswith("scored on 128 of 1,000 test images") for line in rows["bf16"].warnings)
    assert engines["slow"].closed

    assert {row.n_images for row in complete.values()} == {COUNT}
    assert all(row.completed for row in complete.values())
    for found in (rows, complete):
        (kept,) = [name for name, row in found.items() if row.chosen]
        assert kept in ("fast", "tied")
        assert "2.00x" in (found[kept].chosen or "") or "1.98x" in (found[kept].chosen or "")
    assert complete["lossy"].top1 == 0.5


def test_what_left_as_slower_comes_back_where_the_faster_ones_lose_too_much() -> None:
    """4 points are too many, but the sample cannot say so: the fastest drives out all others and is then ruled out."""
    engines = {
        "vit": Engine(0.1),
        "fastest": Engine(0.01, loses=4),
        "fast": Engine(0.02, loses=3),
        "good": Engine(0.03),
        "slow": Engine(0.04),
    }
    rows = run(engines)
    assert rows["good"].chosen is not None
    assert "2 lost more than 1 points and do not count" in rows["good"].chosen
    assert rows["fastest"].completed
    assert rows["fastest"].top1 == pytest.approx(0.96)
    assert (rows["good"].n_images, rows["good"].completed) == (COUNT, True)
    assert rows["slow"].eliminated is not None
    assert len(rows["good"].latency_samples_s) >= latency.MIN_ROUNDS
    assert rows["good"].overall == pytest.approx(10 / 3)

    only_bad = {"vit": Engine(0.1), "fastest": Engine(0.01, loses=4), "fast": Engine(0.02, loses=3)}
    rows = run(only_bad)
    assert not any(row.chosen for row in rows.values())
    assert {row.n_images for row in rows.values()} == {COUNT}


@pytest.mark.parametrize("loses", [0, 4])
def test_what_is_far_slower_on_two_blocks_is_built_only_where_the_faster_loses_too_much(
    loses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shallow = {"fast": Engine(0.002), "late": Engine(0.004), "equal": Engine(0.0025)}

    def begin(_runtime: str, path: Path, *_: object) -> Engine:
        return shallow[path.name]

    def shorten(name: str) -> Callable[[int], Candidate]:
        return lambda blocks: make_candidate(f"{name}, {blocks} blocks", Engine(1), lambda: Path(name))

    monkeypatch.setattr(elimination, "Worker", SimpleNamespace(start=begin))
    monkeypatch.setattr(elimination, "SHALLOW_S", 0.0)
    engines = {"fast": Engine(0.01, loses=loses), "late": Engine(0.02), "equal": Engine(0.013, loses=loses)}
    candidates = [make_candidate("vit", Engine(0.1))]
    for name, engine in engines.items():
        runtime = runtimes.describe("onnxruntime" if name == "fast" else "nncf")  # which takes long to build
        candidates.append(replace(make_candidate(name, engine), runtime=runtime, shallow=shorten(name)))
    rows = measure(candidates, goal=Goal(wanted=lambda each: each.variant == INTEGER))
    assert engines["equal"].starts > 0
    assert all(engine.closed for engine in shallow.values())
    if loses:
        assert rows["late"].chosen is not None
        assert (rows["late"].n_images, rows["late"].completed) == (COUNT, True)
    else:
        assert rows["fast"].chosen is not None
        assert engines["late"].starts == 0
        why = r"on 2 blocks slower than int8 \(fast\) in onnxruntime: 0\.50 \[.*\] times its speed after \d+ rounds"
        assert re.fullmatch(why, rows["late"].eliminated or "")


@pytest.mark.parametrize("fault", [AssertionError("not like this"), KeyError("node"), MemoryError()])
def test_whatever_an_exporter_or_a_figure_raises_the_others_go_on(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        raise fault

    def measure_nothing(_group: object, each: Measurement) -> dict[str, Any]:
        return fail() if each.candidate.recipe == "fast" else {}

    monkeypatch.setattr(figures, "FIGURES", [*figures.FIGURES, measure_nothing])
    torn = make_candidate("torn", Engine(0.01), fail)
    rows = measure([make_candidate("vit", Engine(0.01)), torn, make_candidate("fast", Engine(0.01))])
    assert (rows["torn"].failed or "").startswith(type(fault).__name__)
    assert (rows["vit"].failed, rows["fast"].failed, rows["fast"].top1) == (None, None, 1.0)
    (note,) = [each for each in rows["fast"].warnings if "no figures" in each]
    assert note.startswith(f"no figures of nothing: {type(fault).__name__}")


def test_what_fails_costs_its_own_row_alone() -> None:
    def tear() -> Path:
        raise RuntimeError("the graph cannot be written\nand a long story")

    def make(name: str) -> Candidate:
        faults: dict[str, dict[str, Any]] = {"nan": {"nan": True}, "flat": {"flat": True}, "dies": {"die_after": 12}}
        return make_candidate(name, Engine(0.01, **faults.get(name, {})), **({"build": tear} if name == "torn" else {}))

    names = ("vit", "bf16", "torn", "nan", "flat", "dies", "fine", "fast")
    for goal in (None, Goal(wanted=lambda each: each.variant == INTEGER)):
        rows = measure([make(name) for name in names], goal=goal)
        assert rows["torn"].failed == "the graph cannot be written"
        assert rows["nan"].failed is not None
        assert re.fullmatch(
            r"its logits are not finite for (\d+) of \1 images, so it has no accuracy", rows["nan"].failed
        )
        assert rows["flat"].failed == "its logits are all equal in every image, so it tells no classes apart"
        assert rows["dies"].failed == "its process was ended by SIGKILL"
        for name in ("torn", "nan", "flat", "dies"):
            assert (rows[name].top1, rows[name].overall, rows[name].chosen) == (None, None, None)
        for name in ("vit", "fine", "fast"):
            assert (rows[name].failed, rows[name].top1, rows[name].n_images) == (None, 1.0, COUNT)
            assert len(rows[name].latency_samples_s) >= latency.MIN_ROUNDS
        assert [name for name, row in rows.items() if row.chosen] == ([] if goal is None else ["fine"])


def test_a_process_that_ends_at_one_batch_size_begins_anew_at_the_next() -> None:
    engines = {"vit": [Engine(0.01)], "dies": [Engine(0.02, die_after=12), Engine(0.02)]}
    candidates = []
    for name, several in engines.items():
        waiting = iter(several)
        candidates.append(replace(make_candidate(name, several[0]), start=lambda *_, waiting=waiting: next(waiting)))
    options = Options(verb="bench", seconds=0.0, batch_sizes=(1, 4))
    rows = evaluate(candidates, take_test_images(make_data()), options, lambda _line: None)
    failed = {(row.recipe or row.variant, row.batch_size): row.failed for row in rows}
    assert failed == {
        ("vit", 1): None,
        ("dies", 1): "its process was ended by SIGKILL",
        ("vit", 4): None,
        ("dies", 4): None,
    }
    last = rows[-1]
    assert (last.top1, last.n_images, last.overall) == (1.0, COUNT, 0.5)


def test_rows_are_found_again_unless_something_failed(tmp_path: Path) -> None:
    options = {"out": tmp_path, "goal": None}
    first = run({"vit": Engine(0.01), "bf16": Engine(0.02, die_after=8)}, **options)
    assert first["bf16"].failed
    engines = {"vit": Engine(0.01), "bf16": Engine(0.02)}
    again = run(engines, **options)
    assert (again["bf16"].failed, again["bf16"].overall) == (None, 0.5)
    starts = {name: engine.starts for name, engine in engines.items()}
    assert run(engines, **options) == again
    assert {name: engine.starts for name, engine in engines.items()} == starts
    run(engines, remeasure=True, **options)
    assert {name: engine.starts for name, engine in engines.items()} == {"vit": 2, "bf16": 2}
