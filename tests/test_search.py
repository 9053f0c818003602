"""`compress search`: wishes are met or refused with the nearest, nothing is lost or measured twice, and test images
score what was chosen alone."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from conftest import ROOT, Run

import compress
from baselines.data import Data
from baselines.errors import InputError
from baselines.subset import Part
from baselines.vit import VisionTransformer, ViTConfig
from compress import config, loading, runtimes, sidecar, variant
from compress.cli import main
from compress.measure.statistics import paired_change
from compress.methods import METHODS
from compress.methods.base import Ranges, TokenMethod
from compress.ranges import Range
from compress.storage import open_storage
from compress.verbs.search import choice, measuring
from compress.verbs.search.choice import Trial
from compress.verbs.search.space import LOWERING, Space, make_space
from compress.verbs.search.trials import Trials
from compress.verbs.search.wishes import Figures, Wishes, parse_wishes
from reports import Row, read_rows

QUICK = ["--methods", "topk,int8", "--runtime", "onnxruntime", "--threads", "1", "--seconds", "0.1", "--trials", "6"]
FIGURES = Figures(
    change=-0.01, change_low=-0.02, change_high=0.0, complete=True, latency_s=2e-3, speedup=2.0, speedup_low=1.9,
    speedup_high=2.1, standing=1.0, file_bytes=4_000_000, macs=0.7,
)  # fmt: skip


def make_trial(name: str, **changes: Any) -> Trial:
    return Trial({LOWERING: name}, replace(FIGURES, **changes), name)


def make_tiny_space(epochs: int = 0, *names: str) -> Space:
    model = VisionTransformer(ViTConfig(image_size=8, patch_size=4, channels=1, dim=16, depth=2, heads=2, mlp_dim=16))
    return make_space(model, {}, [runtimes.get("onnxruntime")], epochs, names)


def list_finished(log: Path) -> list[dict[str, Any]]:
    """The figures that the finished trials of a journal have."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return [each["user_attr"]["figures"] for each in entries if "figures" in each.get("user_attr", {})]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was looked at, in order: evaluations with the number of their candidates, and splits with their size."""
    seen: list[tuple[str, int]] = []
    evaluate, batches = measuring.evaluate, Data.batches

    def note_evaluation(candidates: Any, images: Any, *args: Any) -> list[Row]:
        seen.append(("evaluation", len(candidates)))
        return evaluate(candidates, images, *args)

    def note_images(self: Data, split: Any, *args: Any, **options: Any) -> Iterator[Any]:
        held = isinstance(split, Part) or split is self.train
        seen.append(("training images" if held else "test images", len(split.labels)))
        return batches(self, split, *args, **options)

    monkeypatch.setattr(measuring, "evaluate", note_evaluation)
    monkeypatch.setattr(Data, "batches", note_images)
    return seen


def test_a_killed_search_goes_on_to_meet_a_wish_and_refuses_another_with_what_comes_nearest(
    run: Run, tmp_path: Path, no_plots: None, watched: list[tuple[str, int]], capfd: pytest.CaptureFixture[str]
) -> None:
    args = ["search", str(run.checkpoint()), *QUICK, "--max-drop", "60", "--out", str(tmp_path)]
    command, environment = [sys.executable, "-m", "compress", *args], {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert any("the best so far" in line for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    kept = list_finished(tmp_path / "search.log")
    assert len(kept) == 4
    assert main(args) == 0
    finished = list_finished(tmp_path / "search.log")
    assert finished[:4] == kept
    assert len(finished) == 6

    evaluations = [index for index, (what, _) in enumerate(watched) if what == "evaluation"]
    assert len(evaluations) == 3  # of trials, of the best, of the winner
    assert "test images" not in {what for what, _ in watched[: evaluations[-1]]}
    assert ("test images", 360) in watched[evaluations[-1] :]
    assert watched[evaluations[-1]][1] <= 3  # the dense model, the best plain row, the winner
    rows = read_rows(tmp_path / "rows.jsonl")
    (chosen,) = [row for row in rows if row.chosen]
    assert (chosen.dataset, chosen.n_images) == ("digits", 360)
    assert f"kept: {chosen.label} in onnxruntime: the fastest with at most 60 points lost" in capfd.readouterr().out
    assert all(row.top1_change_low <= row.top1_change <= row.top1_change_high for row in rows if not row.dense)

    model, which, _ = loading.restore(tmp_path / "best_vit_model.best.pth")
    told = config.read(tmp_path / "best.toml")
    assert variant.parse(told.variants[-1], told.methods) == which
    assert told.model.dim == model.config.dim == 32
    record = sidecar.read_record(tmp_path / "best_vit_model.best.onnx")
    assert record is not None
    assert (record["label"], record["top1"]) == (chosen.label, chosen.top1)

    watched.clear()
    options: dict[str, Any] = {"methods": ("topk", "int8"), "runtimes": ("onnxruntime",), "trials": 6, "seconds": 0.1}
    result = compress.search(run.checkpoint(), latency=1e-6, max_drop=60, threads=1, out=tmp_path, **options)
    assert (result.rows, result.path) == ([], None)
    assert list_finished(tmp_path / "search.log") == finished  # it begins with all that was tried
    assert "evaluation" not in {what for what, _ in watched}
    said = capfd.readouterr().err
    assert "6 trials were finished before" in said
    assert "nothing that was tried has at most 60 points lost, at most 0.001 ms" in said
    assert "nearest to --latency, of what meets --max-drop: " in said
    assert "nearest to --max-drop, and nothing meets --latency: " in said


class Half(TokenMethod):
    name: ClassVar[str] = "half"
    ranges: ClassVar[Ranges] = {"before": (0, 1), "share": Range(low=0.2, high=0.6, step=0.2)}

    before: int = 0
    share: float = 0.5


def test_the_ranges_of_a_method_are_in_the_space_without_a_word_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "half", Half)
    space = make_tiny_space()
    points = [point for point in space.list_points() if point["tokens"] == "half" and point["geometry"] == "none"]
    found = {(point["half.before"], point["half.share"]) for point in points}
    assert found == {(before, share) for before in (0, 1) for share in (0.2, 0.4, 0.6)}
    which, runtime = space.read({**points[0], "half.share": 0.4, LOWERING: "int8 in onnxruntime"})
    assert (which.name, runtime.name) == ("half_int8", "onnxruntime")
    assert which.methods[0] == Half(before=points[0]["half.before"], share=0.4, tune=False)


def test_what_is_nothing_without_training_takes_part_with_epochs_alone() -> None:
    without, with_epochs = make_tiny_space(), make_tiny_space(1)
    assert without.stages["tokens"] == ("topk", "tome")
    assert with_epochs.stages["tokens"] == ("topk", "dynamicvit", "tome")
    assert "qat in onnxruntime" not in without.lowerings
    assert "qat in onnxruntime" in with_epochs.lowerings
    assert not [name for name in with_epochs.lowerings if "bf16" in name]  # which ONNX Runtime does not compute
    with pytest.raises(InputError, match="--methods 'narrow' takes no part in a search here; choose from topk, "):
        make_tiny_space(0, "narrow")


def test_two_processes_share_a_storage_and_what_a_dead_one_took_waits_again(tmp_path: Path) -> None:
    space, wishes = make_tiny_space(0, "topk", "int8"), Wishes(max_drop=0.1)
    first, second = (Trials(open_storage(str(tmp_path / "shared.log")), "key", space, 0) for _ in range(2))
    taken = [*first.take(3, wishes), *second.take(3, wishes)]
    points = [each.point for each in taken]
    assert len({json.dumps(point, sort_keys=True) for point in points}) == 6
    for number, each in enumerate(taken[1:]):
        each.finish(Trial(each.point, replace(FIGURES, standing=1 + number), str(number)))
    assert [each.label for each in second.list_done()] == list("01234")
    assert taken[0].point not in [each.point for each in second.take(1, wishes)]
    taken[0].trial.set_user_attr("born", 0.0)  # a process with its number, but not the one that took it
    assert taken[0].point == second.take(1, wishes)[0].point

    everything = [*space.list_points()]
    rest = first.take(len(everything), wishes)
    assert len(rest) == len(everything) - 7  # finished or taken; nothing is tried twice


def test_the_choice_keeps_a_margin_and_prefers_accuracy_among_equals() -> None:
    slow, fast = make_trial("slow", change=0.0), make_trial("fast", standing=0.5, change=-0.004)
    same = make_trial("same", standing=0.505, change=-0.003)
    bad = make_trial("bad", standing=0.1, change=-0.2)
    sample = make_trial("sample", standing=0.1, change=0.0, complete=False)
    trials = [slow, fast, same, bad, sample]
    assert choice.rank(trials, Wishes(max_drop=0.02)) == [same, fast, slow]
    assert choice.find_best(trials, Wishes(max_drop=0.006)) is slow  # others lose that much within their error
    assert choice.find_best(trials, Wishes(latency_s=2.02e-3)) is None
    assert choice.find_best(trials, Wishes(latency_s=2.05e-3)) is slow
    assert choice.find_front(trials) == [sample]
    assert choice.find_front(trials[:4]) == [bad, fast, same, slow]
    assert choice.find_neighbours(trials[:4], same) == [fast, slow]
    nearest = choice.find_nearest([slow, bad], Wishes(max_drop=0.02, speedup=4))
    assert nearest == {"max_drop": (slow, False), "speedup": (slow, True)}


def test_what_slows_engines_down_unequally_changes_no_choice() -> None:
    best, better = replace(FIGURES, standing=0.5, latency_s=1e-3, speedup=4.0), replace(FIGURES, standing=0.6)

    def load(figures: Figures, *, engine: float, torch: float) -> Figures:
        """As a session shows them in which an engine is so much slower, and the model in torch even more."""
        return replace(
            figures,
            latency_s=figures.latency_s * engine,
            standing=figures.standing * engine / torch,
            speedup=figures.speedup * torch / engine,
        )

    seen = load(better, engine=1.3, torch=2.0)
    assert seen.standing < best.standing  # though it is slower
    aligned = seen.align(best, load(best, engine=1.3, torch=2.0))
    for name in ("latency_s", "standing", "speedup"):
        assert getattr(aligned, name) == pytest.approx(getattr(better, name))
    slow, sample = make_trial("slow", standing=3.0), make_trial("sample", standing=0.1, complete=False)
    fast = make_trial("fast", standing=0.2, change=-0.5)
    assert choice.find_anchor([slow, fast, sample], Wishes(max_drop=0.02)) is slow  # the best
    assert choice.find_anchor([slow, fast, sample], Wishes(latency_s=1e-9)) is fast
    assert choice.find_anchor([sample], Wishes(max_drop=0.02)) is None


@pytest.mark.parametrize(
    ("texts", "wishes"),
    [
        ({"latency_s": "5ms", "file_bytes": "1.5 MiB"}, Wishes(latency_s=0.005, file_bytes=1.5 * 2**20)),
        ({"speedup": "4x", "macs": "50%"}, Wishes(speedup=4, macs=0.5)),
        ({"latency_s": "1e-06s"}, Wishes(latency_s=1e-6)),
        ({"max_drop": 0.5, "speedup": None}, Wishes(max_drop=0.005)),
        (
            {"latency_s": "5"},
            r"--latency '5' is not a number above 0 with a unit \(s, ms, us, µs\); .* as in 5ms",
        ),
        ({"file_bytes": "-8MB"}, "--file '-8MB' is not a number above 0"),
        ({"macs": "2"}, "--macs '2' is more than all"),
        ({"max_drop": "5ms"}, "--max-drop '5ms' is not a number of points"),
        ({"max_drop": None}, "give --max-drop, --latency, --speedup, --file or --macs"),
    ],
)
def test_wishes_are_read_with_their_units(texts: dict[str, Any], wishes: Wishes | str) -> None:
    if isinstance(wishes, Wishes):
        assert parse_wishes(texts) == wishes
        return
    with pytest.raises(InputError, match=wishes):
        parse_wishes(texts)


def test_the_interval_of_a_change_is_that_of_the_images_that_differ() -> None:
    before = np.arange(1000) < 800
    after = before.copy()
    after[:10], after[-4:] = False, True
    change, low, high = paired_change(after, before)
    assert change == -0.006
    assert low < change < high
    assert high - low == pytest.approx(2 * 1.96 * (14 / 1000 / 1000) ** 0.5, rel=0.1)
    _, low, high = paired_change(before, before)
    assert low < 0 < high
