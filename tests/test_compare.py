"""Two runs compared: an exact change is found, the same run twice has none, and nothing is left out in silence."""

import io
import math
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from made_rows import HOSTILE, bare, example_rows, page_with, slow_down, to_html
from rich.console import Console

from reports import Row, parse_rows
from reports.compare import compare, render_comparison, rich_comparison, slower
from reports.runs import BETWEEN_RUNS, latency_ratio
from reports.significance import NO_DIFFERENCE, Z, compare_proportions


def timed(noise: int = 0, times: float = 1.0, **given: Any) -> Row:
    """A row of 20 rounds of 5 samples around 10 ms, noisy by about 2 %, and a standing reference of 4 ms."""
    chance = random.Random(noise)
    samples = [0.01 * times * chance.lognormvariate(0, 0.02) for _ in range(100)]
    standing = {"standing": 2.5 * times, "standing_low": 2.49 * times, "standing_high": 2.51 * times}
    return bare(**{"variant": "avit", "latency_samples_s": samples, "calls_per_round": 5} | standing | given)


def test_a_run_that_is_exactly_ten_percent_slower_is_found_slower():
    old = timed()
    new = slow_down(old, 1.1)
    change = compare({"old": [old], "new": [new]}).runs[0].changes[0]
    ratio, low, high = change.latency or (0, 0, 0)
    assert ratio == pytest.approx(1.1)
    assert 1.05 < (low or 0) < 1.1 < (high or 0) < 1.15
    assert change.relative
    assert change.time == "slower"
    assert compare({"new": [new], "old": [old]}).runs[0].changes[0].time == "faster"
    (sentence,) = slower({"old": [old], "new": [new]}, 0.05)
    assert re.fullmatch(
        r"avit in torch, digits, batch 1, cpu, 2 threads: 1\.100 \[1\.0\d\d, 1\.1\d\d\] times the latency of old, "
        r"relative to the standing reference \((\S+) -> (\S+) ms\)",
        sentence,
    )
    assert slower({"old": [old], "new": [new]}, 0.1) == []  # not beyond noise
    machine = slow_down(old, 1.1, machine=3.0)
    assert compare({"old": [old], "new": [machine]}).runs[0].changes[0].latency == change.latency
    raw = [replace(row, standing=None) for row in (old, new)]
    assert compare({"old": raw[:1], "new": raw[1:]}).runs[0].changes[0].time == NO_DIFFERENCE  # it varies more
    page = render_comparison({"old": raw[:1], "new": raw[1:]})["comparison.md"].decode()
    assert "Rows without a standing reference are compared in seconds" in page
    assert "relative to the standing reference" not in page


def test_a_warning_of_load_widens_the_interval():
    old, new = timed(), timed(times=1.2)
    loaded = replace(new, warnings=["noisy: the middle half of the latencies spans 30% of the median"])
    assert len(slower({"old": [old], "new": [new]}, 0.05)) == 1
    assert slower({"old": [old], "new": [loaded]}, 0.05) == slower({"old": [loaded], "new": [old]}, 0.05) == []
    page = render_comparison({"old": [old], "new": [loaded]})["comparison.md"].decode()
    assert "not clear (measured under load)" in page
    assert "under load" in slower({"old": [old], "new": [slow_down(loaded, 2)]}, 0.05)[0]
    other = replace(new, warnings=["ranges come from 8 images: fewer than 32 leave much to chance"])
    assert len(slower({"old": [old], "new": [other]}, 0.05)) == 1


def test_the_same_run_twice_has_no_difference():
    rows = [row for row in example_rows() if row.failed is None]
    against = compare({"a": rows, "b": rows}).runs[0]
    assert len(against.changes) == len(rows)
    assert {change.time for change in against.changes} == {NO_DIFFERENCE}
    assert {change.accuracy for change in against.changes} == {NO_DIFFERENCE}
    assert all(change.speedup[0] == 1 for change in against.changes if change.speedup)
    assert (against.gone, against.added, against.failed, against.warnings) == ([], [], [], [])
    assert slower({"a": rows, "b": rows}, 0.0) == []
    page = render_comparison({"a": rows, "b": rows})["comparison.md"].decode()
    assert "Multiply-accumulates, parameters and file sizes are the same." in page
    assert "not comparable" not in page


def test_rounds_are_what_is_drawn():
    """Two states of the machine, each for half of the rounds: samples alone would make the interval too narrow."""
    samples = [0.010 + 0.002 * (i // 50 % 2) for i in range(200)]
    row = bare(latency_samples_s=samples, calls_per_round=50)
    by_round = latency_ratio(row, row)
    by_sample = latency_ratio(*[replace(row, calls_per_round=None)] * 2)
    assert by_round is not None
    assert by_sample is not None
    assert by_round[1:] == (pytest.approx(10 / 12), pytest.approx(1.2))
    assert latency_ratio(row, row) == by_round  # the same rows, the same interval
    constant = bare(latency_samples_s=[0.01] * 7, calls_per_round=5)  # the last round was cut off
    assert latency_ratio(constant, replace(constant, latency_samples_s=[0.02], calls_per_round=9)) == (2, 2, 2)
    assert latency_ratio(constant, bare()) is None


def test_accuracy_is_judged_as_two_proportions():
    old = bare(n_images=1000, top1=0.80)
    assert compare_proportions(0.80, 1000, 0.76, 1000) == pytest.approx(
        math.erfc(0.04 / math.sqrt(0.78 * 0.22 * 2 / 1000) / math.sqrt(2))
    )
    words = [
        compare({"a": [old], "b": [replace(old, top1=top1)]}).runs[0].changes[0].accuracy for top1 in (0.76, 0.79, 0.84)
    ]
    assert words == ["worse", NO_DIFFERENCE, "better"]
    assert compare_proportions(1.0, 1000, 1.0, 1000) == 1
    assert compare_proportions(0.8, 1000, None, 10) is None


def test_a_speed_up_cancels_a_slower_machine():
    old = timed(speedup=1.5, speedup_low=1.4, speedup_high=1.6)
    new = timed(1, 3.0, speedup=1.5, speedup_low=1.45, speedup_high=1.55)
    change = compare({"old": [old], "new": [new]}).runs[0].changes[0]
    assert (change.time, change.speed) == ("slower", NO_DIFFERENCE)
    down = math.hypot(math.log(1.5 / 1.45), math.log(1.6 / 1.5), Z * BETWEEN_RUNS)
    up = math.hypot(math.log(1.55 / 1.5), math.log(1.5 / 1.4), Z * BETWEEN_RUNS)
    assert change.speedup == (1, pytest.approx(math.exp(-down)), pytest.approx(math.exp(up)))
    worse = replace(new, speedup=1.0, speedup_low=0.95, speedup_high=1.05)
    assert compare({"old": [old], "new": [worse]}).runs[0].changes[0].speed == "slower"


def test_recipes_are_kept_apart_and_one_that_is_not_said_matches():
    static, dynamic = timed(recipe="static"), timed(recipe="dynamic")
    pairs = compare({"a": [static, dynamic], "b": [dynamic, static]}).runs[0].changes
    assert [(change.old, change.new) for change in pairs] == [(dynamic, dynamic), (static, static)]
    (change,) = compare({"a": [timed()], "b": [static]}).runs[0].changes
    assert change.new == static
    assert compare({"a": [timed()], "b": [static, dynamic]}).runs[0].changes == []
    assert compare({"a": [dynamic], "b": [static]}).runs[0].changes == []


def test_what_was_eliminated_is_not_compared():
    gone = timed(times=3.0, eliminated="surely slower than int8")
    against = compare({"a": [timed()], "b": [gone]}).runs[0]
    assert (against.changes, against.failed) == ([], [])
    assert slower({"a": [timed()], "b": [gone]}, 0.05) == []


def test_what_is_in_one_run_only_is_named():
    old, new = [timed(), timed(batch_size=8), timed(variant="gone")], [timed(), timed(variant="tome")]
    page = render_comparison({"old": old, "new": new})["comparison.md"].decode()
    assert "- Only before: avit in torch, batch 8; gone in torch, batch 1." in page
    assert "- Only here: tome in torch, batch 1." in page
    assert slower({"old": old, "new": new}, 0.05) == []


def test_what_failed_now_and_not_before_trips_the_gate():
    failed = bare(variant="avit", runtime="auto", device_name="", failed="out of\nmemory")
    assert slower({"old": [timed()], "new": [failed]}, 0.05) == [
        "avit in auto, digits, batch 1, cpu, 2 threads: failed, and did not in old: out of memory"
    ]
    assert slower({"old": [timed(), failed], "new": [failed]}, 0.05) == []
    assert slower({"old": [bare(variant="vit")], "new": [failed]}, 0.05) == []  # it was not there before


def test_seeds_are_kept_apart_and_matched_across_where_each_is_alone():
    first, second = timed(seed=1), timed(seed=2)
    pairs = compare({"a": [first, second], "b": [second, first]}).runs[0].changes
    assert [(change.old, change.new) for change in pairs] == [(second, second), (first, first)]
    (change,) = compare({"a": [first], "b": [second]}).runs[0].changes
    assert (change.old, change.new) == (first, second)


def test_another_machine_is_said_and_its_times_are_not_compared():
    facts = {"cpu": "A", "versions": {"torch": "2.14"}, "commit": "aaa", "load_average_1min": 0.1}
    old = timed(environment=facts, speedup=1.5, speedup_low=1.4, speedup_high=1.6)
    changed = {"cpu": "B", "versions": {"torch": "2.15"}, "commit": "bbb", "load_average_1min": 1.9}
    new = replace(timed(0, 2.0, environment=changed), speedup=1.5, device_name="B")
    runs = {"old": [old], "new": [new]}
    page = render_comparison(runs)["comparison.md"].decode()
    for words in (
        "cpu was A, is B", "versions.torch was 2.14, is 2.15", "commit was aaa, is bbb", "device was Test CPU, is B",
        "mean load of the machine was 0.1, is 1.9", "Absolute times from different machines", "another machine",
    ):  # fmt: skip
        assert words in page
    assert slower(runs, 0.05) == []
    assert set(render_comparison(runs)) == {"comparison.md"}  # no time to plot
    quiet = replace(old, environment=facts | {"load_average_1min": 0.4})
    assert compare({"a": [old], "b": [quiet]}).runs[0].warnings == []


def test_more_than_two_runs_are_held_against_the_first_and_the_last_is_gated():
    runs = {"one": [timed()], "two": [timed(times=1.5)], "three": [timed(3)]}
    assert [each.changes[0].time for each in compare(runs).runs] == ["slower", NO_DIFFERENCE]
    assert slower(runs, 0.05) == []
    with pytest.raises(ValueError, match="two runs or more"):
        compare({"one": []})
    assert compare({"one": [], "two": []}).runs[0].changes == []
    assert b"nothing to compare" in render_comparison({"one": [], "two": []})["comparison.md"]


def test_work_and_size_that_changed_are_listed():
    old = timed(macs_per_image=50e6, params=1_000_000, file_bytes=4_000_000)
    page = render_comparison({"a": [old], "b": [replace(old, file_bytes=1_000_000)]})["comparison.md"].decode()
    assert "4.00 → 1.00 (-75.0 %)" in page
    assert "50.0 →" not in page


def test_hostile_names_change_no_structure_and_the_same_runs_give_the_same_bytes():
    def files(text: str) -> dict[str, bytes]:
        row = replace(page_with(text), failed=None)
        runs = {text: [row, replace(row, batch_size=9)], text + "2": [row, replace(row, variant=text + "!")]}
        assert slower(runs, 0.05) == []
        out = io.StringIO()
        Console(file=out, width=112).print(rich_comparison(runs))
        assert "\x1b" not in out.getvalue()
        assert max(map(len, out.getvalue().splitlines())) <= 112
        return render_comparison(runs)

    evil = files(HOSTILE)
    assert evil == files(HOSTILE)
    assert set(evil) == {"comparison.md", "comparison.png", "comparison.svg"}
    ElementTree.fromstring(evil["comparison.svg"])
    tags = [re.findall(r"</?[a-z]\w*", to_html(each["comparison.md"].decode())) for each in (evil, files("plain"))]
    assert tags[0] == tags[1]


def test_rows_of_the_first_version_can_be_compared():
    path = Path(__file__).parent / "files" / "rows_of_version_0.1.0.jsonl"
    rows = parse_rows(path.read_text(), path.name)
    new = [replace(row, latency_samples_s=[1.3 * s for s in row.latency_samples_s]) for row in rows]
    assert len(slower({"0.1.0": rows, "now": new}, 0.05)) == len(rows)
