"""One rule of significance: whatever the rows, no section of a report contradicts another."""

import random
import re
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from made_rows import bare

from reports import Row
from reports.accuracy import accuracy
from reports.findings import findings
from reports.results import Result, choose_winner, group_rows
from reports.significance import NO_DIFFERENCE, divide, judge_accuracy, judge_slowdown, judge_speedup
from reports.table import markdown_table
from reports.timing import break_even

BATCHES = (1, 8, 32)


def test_the_rule():
    assert [judge_speedup(ratio) for ratio in ((1.2, 1.1, 1.3), (0.8, 0.7, 0.9), (1.1, 0.9, 1.2))] == [
        "faster", "slower", NO_DIFFERENCE,
    ]  # fmt: skip
    assert judge_speedup((1.2, None, None)) == judge_speedup((1, 1, 1)) == ""
    assert judge_slowdown((1.2, 1.1, 1.3)) == "slower"
    assert [judge_accuracy(*pair) for pair in ((-0.1, 0.04), (0.1, 0.04), (-0.1, 0.05), (0.1, None))] == [
        "worse", "better", NO_DIFFERENCE, "",
    ]  # fmt: skip
    assert divide((2, 2, 2), (1, 1, 1)) == (2, pytest.approx(2), pytest.approx(2))
    middle, low, high = divide((2, 1.9, 2.1), (1, 0.9, 1.1), spread=0.1)
    assert low < 2 / 1.1 < middle < 2 / 0.9 < high


def test_the_winner_is_the_fastest_that_loses_nothing():
    def timed(variant: str, ms: float, **more: Any) -> Row:
        return bare(variant=variant, latency_samples_s=[ms / 1e3], top1=0.8, n_images=100, **more)

    dense = timed("vit", 10.0)
    lossless = timed("int8", 5.0, top1_change=-0.01, mcnemar_p=0.4)
    lossy = timed("int4", 2.0, top1_change=-0.2, mcnemar_p=1e-9)
    early = timed("slow", 1.0, top1_change=0.0, mcnemar_p=1.0, eliminated="surely slower than int8")
    failed = bare(variant="none", failed="no")
    (group,) = group_rows([early, dense, lossy, lossless, failed])
    assert [winner.row for winner in group.winners] == [lossless]
    assert [result.row for result in group.results] == [dense, lossy, lossless, early]
    assert choose_winner([Result(lossy), Result(early)]) is None
    assert choose_winner([Result(replace(lossy, top1=None, top1_change=None, mcnemar_p=None))]) is not None
    text = findings([early, dense, lossy, lossless, failed])
    assert "**int4** in torch: 2.00 ms (500 images/s); top-1 80.0 %, 20.0 points below `vit` at p < 0.001" in text
    assert "**slow**" not in text
    assert "1 eliminated before the end" in text
    table = markdown_table([early, dense, lossy, lossless, failed])
    assert "| int8 ★ " in table
    assert "| slow (eliminated) [1] " in table
    assert "- [1] eliminated after 100 images: surely slower than int8" in table


def test_what_was_chosen_says_why():
    chosen = bare(variant="int8", recipe="static", latency_samples_s=[0.01], chosen="fastest of 13 without a loss")
    assert "| int8 (static) ★ (chosen) [1] " in markdown_table([chosen])
    assert "- [1] chosen: fastest of 13 without a loss" in markdown_table([chosen])
    assert "Chosen: **int8 (static)** in torch, fastest of 13 without a loss." in findings([chosen])


def made_up(seed: int) -> list[Row]:
    """Variants of any speed and accuracy in two engines, some of them eliminated or failed; plain models among them."""
    chance = random.Random(seed)
    rows = []
    for name, runtime, batch in product(
        ("vit", "bf16", "narrow", "va", "vb", "vc", "vd"), ("torch", "onnxruntime"), BATCHES
    ):
        n, speed, own = 1000, chance.lognormvariate(0.1, 0.3), chance.lognormvariate(0.1, 0.3)
        change, width = round(chance.gauss(-0.01, 0.02), 3), chance.uniform(0.01, 0.2)
        row = bare(variant=name, runtime=runtime, batch_size=batch, n_images=n, top1=0.8 + change)
        row = replace(
            row, latency_samples_s=[0.01 / speed], overall=speed, overall_low=speed * (1 - width),
            overall_high=speed * (1 + width), speedup=own, speedup_low=own * (1 - width),
            speedup_high=own * (1 + width), ceiling=1.3, dtype="fp32", mcnemar_p=max(0.0, 1 - 40 * abs(change)) ** 2,
        )  # fmt: skip
        if name == "vit":
            row = replace(row, top1=0.8, mcnemar_p=None, speedup=1.0, speedup_low=1.0, speedup_high=1.0)
        elif chance.random() < 0.15:
            row = replace(row, eliminated="surely slower than another")
        elif chance.random() < 0.1:
            row = bare(variant=name, runtime=runtime, batch_size=batch, failed="out of memory")
        rows.append(row)
    return rows


@pytest.mark.parametrize("seed", range(12))
def test_no_two_sections_contradict(seed: int):
    rows = made_up(seed)
    text, verdicts, wins = findings(rows), accuracy(rows), break_even(rows)
    for group in group_rows(rows):
        table = {line[:2]: line for line in cells(markdown_table(group.rows)) if line[0] != "variant"}
        paragraph = next(part for part in text.split("\n- ") if f"batch {group.rows[0].batch_size}," in part)
        first = paragraph.split("\n")[0]
        assert len(table) == len(group.rows) - len(group.failures)
        (winner,) = group.winners
        for result in group.results:
            row, name = result.row, f"**{result.row.variant}** in {result.row.runtime}"
            line = next(
                line
                for line in table.values()
                if re.split(" [★(]", line[0])[0] == row.variant and line[1] == row.runtime
            )
            # The table: sign, star, mark.
            assert ("*" in "".join(line[2:])) == (result.accuracy in ("better", "worse"))
            assert ("★" in line[0]) == (result is winner)
            if row.completed and not row.dense:
                shown = f"~{row.speedup:.2f} ["
                assert (shown in "".join(line)) == (result.speed == NO_DIFFERENCE)
                saving = first.partition("Not faster in their own engine: ")[2]
                assert (name in saving) == (result.speed in ("slower", NO_DIFFERENCE))
            # The findings: nothing of what was eliminated; who wins loses nothing; a loss stands beside its speed.
            if not row.completed:
                assert name not in paragraph
            if f"loss of top-1 is {name}" in first:
                assert result is winner
                assert result.accuracy != "worse"
            for entry in re.findall(re.escape(name) + r" \((\d[^)]* ms[^)]*)", paragraph):
                assert ("points below `vit`" in entry) == (result.accuracy == "worse")
                assert ("points above `vit`" in entry) == (result.accuracy == "better")
        # Break-even: a variant that wins at every batch is slower at none, and has no sign of doubt.
        for line in wins.splitlines():
            if "at every batch" in line:
                assert "~" not in line
    # The section on accuracy gives the verdict that the star stands for.
    for result in (result for group in group_rows(rows) for result in group.results):
        share = f"{100 * (result.row.top1 or 0):.1f}"
        lines = [line for line in cells(verdicts) if line[1:3] == (result.row.variant, result.row.runtime)]
        assert any(line[5].startswith(share) and line[-1].startswith(result.accuracy) for line in lines)


def cells(markdown: str) -> list[tuple[str, ...]]:
    """Lines of its tables."""
    lines = [line for line in markdown.splitlines() if line.startswith("|") and not line.startswith("| -")]
    return [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in lines]
