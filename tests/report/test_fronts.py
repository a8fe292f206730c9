"""Fronts on the page of a run and of a comparison."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from front_cases import HOW, values_of, way
from scipy import stats

from morlaif.evaluation.fronts import Fronts, against
from morlaif.report.comparison import fronts as compared
from morlaif.report.comparison.data import ComparedRun, ComparedRuns
from morlaif.report.fronts import fronts
from morlaif.report.style import PALETTE, styled
from morlaif.steer.simplex import grid, weights

TWO = np.array([weights(point) for point in grid(2, 2)])
MEANS = {"soup": [[3, 0], [-0.5, -0.5], [0, 3]], "direct": [[3, 0], [2, 2], [0, 3]]}


def found(means=MEANS, at=TWO) -> Fronts:
    values = {name: values_of(own) for name, own in means.items()}
    ways = {name: way(own, at, name, 200 if name == "soup" else 900) for name, own in values.items()}
    return Fronts(ways, against(ways, values, **HOW))


def section(one: Fronts):
    return fronts(SimpleNamespace(fronts=one))


def test_ways_stand_side_by_side_with_what_they_cost():
    ways, points = section(found()).panels[-2:]
    rows = {row[0]: dict(zip(ways.table.heads, row, strict=True)) for row in ways.table.rows}
    assert rows["soup"]["policies"] == "3" and rows["soup"]["samples"] == "200"
    # above (-2, -2): 5·2 + 2·3 of 5·2 + 4·2 + 2·1
    assert rows["soup"]["hypervolume"].startswith("16.00 ") and rows["direct training"]["hypervolume"][:5] == "20.00"
    assert rows["soup"]["relative to direct"].startswith("80.0 %") and rows["soup"]["dominated"] == "1 of 3"
    assert rows["direct training"]["relative to direct"] == "100 %"
    assert [row[0] for row in points.table.rows] == ["1 : 0", "0.5 : 0.5", "0 : 1"]
    middle = dict(zip(points.table.heads, points.table.rows[1], strict=True))
    assert middle["soup: p0"] == "−0.50 (−2.00)" and middle["direct: p1"] == "2.00 (+0.50)"


def test_dominated_points_are_hollow():
    drawing = section(found()).drawings[0]
    with styled():
        drawn = drawing.draw(SimpleNamespace(fronts=found()))
    spots = [line for line in drawn.axes[0].lines if len(line.get_xdata()) == 1 and line.get_marker() in "os"]
    hollow = [line for line in spots if line.get_markerfacecolor() == PALETTE.surface]
    assert len(spots) == 6 and [(*line.get_xdata(), *line.get_ydata()) for line in hollow] == [
        pytest.approx((-0.5, -0.5))
    ]


@pytest.mark.slow
def test_more_objectives_are_drawn_in_parallel_and_two_by_two():
    at = np.array([weights(point) for point in grid(3, 2)])
    three = found({"direct": (at * 3).tolist()}, at)
    made = section(three)
    assert [drawing.name for drawing in made.drawings] == ["front_parallel", "front_matrix"]
    with styled():
        parallel, matrix = (drawing.draw(SimpleNamespace(fronts=three)) for drawing in made.drawings)
    assert len([line for line in parallel.axes[0].lines if len(line.get_xdata()) == 3]) == len(at)
    assert sum(axes.get_visible() for axes in matrix.axes) == 3
    assert section(three).panels[-2].table.rows[0][5] == "–"  # nothing to compare with


def test_a_run_without_fronts_has_no_section():
    assert fronts(SimpleNamespace(fronts=None)) is None


def run(seed: int, soup: float) -> ComparedRun:
    made = found({"soup": [[3, 0], [soup, soup], [0, 3]], "direct": MEANS["direct"]})
    config = {"ppo.seed": seed, "scalarizer.name": "linear"}
    units = {"evaluate": f"e{seed}", "front/soup": f"s{seed}", "front/direct": f"d{seed}"}
    details = SimpleNamespace(confidence=0.95)
    return ComparedRun(f"run-{seed}", config, units, None, details, {}, None, made.ways)


def test_a_comparison_has_each_way_over_seeds_with_students_interval():
    levels = [1.0, 1.5, 1.8, 1.2]
    data = ComparedRuns([run(seed, level) for seed, level in enumerate(levels)])
    # above (-2, -2), in strips of the second coordinate: up to 0, to the level, to 3
    volumes = [5 * 2 + (2 + level) * level + 2 * (3 - level) for level in levels]
    chart = compared.hypervolumes(data)
    assert list(chart.rows) == ["soup", "direct training"]
    (soup, direct) = chart.series[0].points
    half = stats.t.ppf(0.975, 3) * np.std(volumes, ddof=1) / 2
    assert soup.value == pytest.approx(np.mean(volumes))
    assert (soup.low, soup.high) == pytest.approx((soup.value - half, soup.value + half))
    assert direct.value == pytest.approx(20)
    beside = compared.relative(data)
    assert list(beside.rows) == ["soup"] and "soup 22%" in beside.caption
    assert beside.series[0].points[0].value == pytest.approx(np.mean(volumes) / 20)
    (panel,) = compared.mean_fronts(data).panels
    assert panel.lines[0].x == pytest.approx([3, np.mean(levels), 0])


def test_runs_that_share_a_front_count_once():
    one = run(0, 1.0)
    data = ComparedRuns([one, run(1, 1.5), one])
    assert [len(row.runs) for row in compared.ways(data)] == [2, 2]
