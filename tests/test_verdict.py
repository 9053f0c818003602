"""The one line above a table says what the table says, and agrees with its rule of significance."""

from dataclasses import replace
from typing import Any

import pytest
from made_rows import bare, example_rows

from reports import Row, state_verdict
from reports.markdown import report_md

DENSE: dict[str, Any] = {"overall": 1.0, "overall_low": 1.0, "overall_high": 1.0, "file_bytes": 1000, "top1": 0.8}
DENSE |= {"latency_samples_s": [0.010], "n_images": 1000}


def make_int8(ms: float, overall: tuple[float, float, float], change: float, p: float, **more: Any) -> Row:
    middle, low, high = overall
    figures = {"overall": middle, "overall_low": low, "overall_high": high, "latency_samples_s": [ms / 1e3]}
    figures |= {"file_bytes": 260, "n_images": 1000, "top1": 0.8 + change, "top1_change": change, "mcnemar_p": p}
    return bare(**{"variant": "int8", "recipe": "static + bf16", "runtime": "openvino", **figures, **more})


FAST = make_int8(2, (5.1, 4.9, 5.3), -0.002, 0.5)
NAME = "int8 (static + bf16) in openvino"


def test_the_best_row_in_one_line() -> None:
    line = "5.10x faster than PyTorch fp32 [4.90, 5.30], -0.2 points of top-1 (not significant), 0.26x the size: "
    assert state_verdict([bare(**DENSE), FAST]) == line + NAME
    assert report_md([bare(**DENSE), FAST]).splitlines()[2].startswith("**5.10x faster than PyTorch fp32")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (make_int8(9.9, (1.01, 0.98, 1.04), 0, 1.0), ("Not significantly faster than PyTorch fp32", "top-1 unchanged")),
        (make_int8(9.9, (1.01, 1.005, 1.02), 0.001, 0.5), ("1.01x faster", "+0.1 points of top-1 (not significant)")),
        (make_int8(20, (0.5, 0.4, 0.6), 0, 1.0), ("No variant is faster than PyTorch fp32", "slower than", NAME)),
        (make_int8(2, (5.1, 4.9, 5.3), -0.1, 1e-9), ("No variant is faster", "-10.0 points of top-1 (significant)")),
        (make_int8(5, (2, 1.9, 2.1), 0, 1.0, verb="quantize"), ("No integer file was kept. 2.00x faster",)),
        (make_int8(20, (0.5, 0.4, 0.6), 0, 1.0, verb="quantize", chosen="kept"), ("Slower than PyTorch", NAME)),
        (bare(variant="int8", failed="no memory"), ("No variant was measured to the end",)),
    ],
)
def test_what_gains_nothing_is_not_called_faster(row: Row, words: tuple[str, ...]) -> None:
    verdict = state_verdict([bare(**DENSE), row])
    assert verdict.startswith(words[0])
    assert all(word in verdict for word in words)


def test_a_faster_engine_is_not_taken_for_compression() -> None:
    dense = bare(**DENSE | {"runtime": "onnxruntime", "overall": 5.0, "overall_low": 4.8, "overall_high": 5.2})
    as_fast = [bare(**DENSE), replace(dense, latency_samples_s=[0.00205]), FAST]
    assert state_verdict(as_fast).endswith("; not significantly faster than the dense model in onnxruntime")
    faster = state_verdict([bare(**DENSE), replace(dense, latency_samples_s=[0.0015]), FAST])
    assert "vit in onnxruntime, the dense model itself; no variant is faster" in faster


def test_each_table_has_a_line() -> None:
    lines = state_verdict(example_rows()).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [f"digits, batch {n}, cpu, 2 threads" for n in (1, 32)]
    assert "\n- **digits, batch 1" in report_md(example_rows())
    assert state_verdict([]) == ""
