"""What came of a run, in one line for each table: how fast, at what accuracy and size, and by which row.

Whether something is called faster or a loss is decided where all tables decide it (`reports/significance.py`).
"""

from reports.columns import times_text
from reports.findings import choose_fastest, compare_speed
from reports.results import Group, Result, describe_conditions, group_rows
from reports.row import Row
from reports.significance import NO_DIFFERENCE, judge_speedup
from reports.text import bullets, clean, escape, figure, measured, points, ratio

TORCH = "PyTorch fp32"
LOSSLESS = "without a significant loss of top-1"


def state_verdict(rows: list[Row]) -> str:
    """One line for each table and dense model, as plain text; empty without rows.

    Where there are several, each begins with the conditions that it holds under.
    """
    lines = [(group, base, _judge(group, base)) for group in group_rows(rows) for base in group.bases]
    if len(lines) == 1:
        return lines[0][-1]
    return "\n".join(
        f"{describe_conditions(group.rows[0], device_name=False)}{f', {clean(base)}' if len(group.bases) > 1 else ''}: "
        f"{line}"
        for group, base, line in lines
    )


def verdict_md(rows: list[Row]) -> str:
    """The same as Markdown."""
    lines = [f"**{escape(line)}**" for line in state_verdict(rows).splitlines()]
    return lines[0] if len(lines) == 1 else bullets(lines)


def _judge(group: Group, base: str) -> str:
    results = [r for r in group.results if r.row.base == base and r.row.completed and measured(r.row.latency_s)]
    if not results:
        return "No row was measured to the end"
    winner = next((each for each in group.winners if each.row.base == base), None)
    chosen = next((each for each in results if each.row.chosen is not None), None)
    none_kept = chosen is None and any(each.row.verb == "quantize" for each in results)
    front = "No integer file was kept. " if none_kept else ""
    best = chosen or winner
    if not any(not each.row.dense for each in results) and len(results) < len(group.rows):
        front += "No variant was measured to the end. "
    if best is None:
        return f"{front}No row is {LOSSLESS}; the fastest: {_describe(choose_fastest(results))}"
    text = _judge_dense(best, results) if best.row.dense else _describe(best) + _name_equal(best, results)
    return front + text[0].upper() + text[1:]


def _judge_dense(best: Result, results: list[Result]) -> str:
    """Where the best is the dense model itself, in whatever engine."""
    others = [each for each in results if not each.row.dense]
    if best.row is best.reference:
        text = f"no variant is faster than {TORCH} {LOSSLESS}"
    else:
        text = f"{_describe(best)}, the dense model itself"
        text += f"; no variant is faster {LOSSLESS}" if others else ""
    return f"{text}; the fastest of them: {_describe(choose_fastest(others))}" if others else text


def _name_equal(best: Result, results: list[Result]) -> str:
    """The dense model in the engine where it is as fast, if there is one: what compression did not gain."""
    dense = [each for each in results if each.row.dense and each.row is not best.reference]
    rival = min(dense, key=lambda each: each.row.latency_s or 0, default=None)
    speed = judge_speedup(compare_speed(best, rival)) if rival else "faster"
    if rival is None or speed not in ("slower", NO_DIFFERENCE):
        return ""
    return f"; not significantly faster than the dense model in {clean(rival.row.runtime)}"


def _describe(result: Result) -> str:
    """`5.10x faster than PyTorch fp32 [4.90, 5.30], -0.2 points of top-1 (not significant), 0.26x the size: NAME`."""
    parts = [_speed(result), _accuracy(result), _size(result)]
    return f"{', '.join(filter(None, parts))}: {clean(result.row.label)} in {clean(result.row.runtime)}"


def _speed(result: Result) -> str:
    row = result.row
    times, rival = (row.overall, row.overall_low, row.overall_high), TORCH
    if measured(row.overall) is None:
        times, rival = (row.speedup, row.speedup_low, row.speedup_high), "the dense model in the same engine"
    if measured(times[0]) is None:
        return f"{figure(row.latency_s, 1e-3)} ms, compared with nothing"
    speed = judge_speedup(times)
    if speed == "faster":
        return f"{ratio(times[0])}x faster than {rival} [{ratio(times[1])}, {ratio(times[2])}]"
    if speed == "slower":
        return f"slower than {rival} ({times_text(times)} times its speed)"
    if speed == NO_DIFFERENCE:
        return f"not significantly faster than {rival} ({times_text(times).strip('~')} times its speed)"
    return f"{ratio(times[0])} times the speed of {rival}"


def _accuracy(result: Result) -> str:
    """Against the dense model in the same engine."""
    change = result.top1_change
    if result.row.dense:
        return ""
    if change is None:
        return "top-1 not compared"
    text = points(change, result.row.n_images)
    if float(text) == 0:
        return "top-1 unchanged"
    known = {"": "significance not known", NO_DIFFERENCE: "not significant"}
    return f"{text} points of top-1 ({known.get(result.accuracy, 'significant')})"


def _size(result: Result) -> str:
    share = result.file_ratio
    return "" if share is None or result.row is result.reference else f"{ratio(share)}x the size"
