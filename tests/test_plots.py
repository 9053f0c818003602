"""What can be seen in a plot: every mark, all names or none, and no plot of a single point."""

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from made_rows import example_rows

from reports.plots import PLOTS
from reports.plots.labels import Point, finish
from reports.plots.pareto import against_latency
from reports.plots.style import panels
from reports.reading import read_rows

SAME = [(1.0, 50.0)] * 3
APART = [(1.0, 50.0), (2.0, 60.0), (3.0, 70.0)]


def draw(places: list[tuple[float, float]], name: str) -> tuple[list[float], list[str]]:
    """Sizes of marks in the order in which they are drawn, and the names beside them."""
    fig, (ax,) = panels(1, (4.3, 3.7))
    points = [Point(name, "#0072B2", x, y, (x, x), (y, y)) for x, y in places]
    marks = [(point, point.draw(ax, "o", {"markersize": 7})) for point in points]
    ax.set(xlim=(0, 4), ylim=(0, 100))
    finish(fig, [(ax, marks)], [("all", {})])
    return [mark.get_markersize() for _, mark in marks], [text.get_text() for text in ax.texts]


def test_marks_in_one_place_all_show_and_names_are_all_there_or_none():
    assert draw(APART, "int8") == ([7, 7, 7], ["int8"] * 3)
    assert draw(APART * 8, "a_name_of_24_characters_")[1] == []
    sizes, _ = draw(SAME, "")
    assert sizes == sorted(set(sizes), reverse=True)


def test_no_mark_of_a_real_run_is_under_another():
    rows = read_rows(Path(__file__).parents[1] / "reports/published/cifar10_tokens/rows.jsonl")
    fig = against_latency(rows)
    for ax in fig.axes:
        marks = [line for line in ax.lines if line.get_zorder() == 4]
        assert len(marks) == 27
        places = [72 / fig.dpi * ax.transData.transform(line.get_xydata()[0]) for line in marks]
        for (first, below), (second, above) in combinations(zip(places, marks, strict=True), 2):
            hidden = math.dist(first, second) < above.get_markersize() / 2
            assert not hidden or below.get_markersize() > above.get_markersize()


@pytest.mark.parametrize("name", ["pareto", "pareto_cost", "realised"])
def test_a_single_point_is_no_plot(name: str):
    row = next(row for row in example_rows() if PLOTS[name].data([row, replace(row, runtime="other", variant="w")]))
    assert PLOTS[name].data([row]) == []


def test_a_single_epoch_is_no_curve():
    row = next(row for row in example_rows() if row.training)
    assert PLOTS["training"].data([row])
    assert PLOTS["training"].data([replace(row, training=row.training and row.training[:1])]) == []
