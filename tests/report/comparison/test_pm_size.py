"""Runs with preference models on bases of several sizes: worth and cost against the size."""

from __future__ import annotations

import pytest

from morlaif.report.comparison.charts import Lines
from morlaif.report.comparison.data import ComparedRuns, load
from morlaif.report.comparison.page import render, sections
from morlaif.report.comparison.pm_size import pm_size

COSTS = [
    {"base_parameters": 50_000, "bytes": 1_200_000, "seconds": 8.0, "models": 12},
    {"base_parameters": 200_000, "bytes": 3_000_000, "seconds": 20.0, "models": 12},
    {"base_parameters": 200_000, "bytes": 3_000_000, "seconds": 24.0, "models": 12},
]


def of(runs, costs) -> ComparedRuns:
    made, inputs = runs(count=3, change=better)
    return ComparedRuns(load([run | {"pm": cost} for run, cost in zip(made, costs, strict=True)], inputs))


def better(number: int, details: dict, results: dict) -> None:
    """Each run's models and policy a little better than those of the one before."""
    for own in results["pm_accuracy"].values():
        own["value"] = 0.80 + 0.02 * number
    results["win_rate"]["multi_vs_sft"]["value"] = 0.60 + 0.1 * number


def test_worth_and_cost_are_means_over_the_runs_of_a_size(runs) -> None:
    worth, cost = pm_size(of(runs, COSTS)) or []
    assert isinstance(worth, Lines) and isinstance(cost, Lines)
    found = {panel.title: panel.lines[0] for chart in (worth, cost) for panel in chart.panels}
    assert all(list(line.x) == [0.05, 0.2] for line in found.values()), "millions of parameters, the smallest first"
    assert list(found["each principle’s accuracy"].y) == pytest.approx([0.80, 0.83])
    assert list(found["win rate over SFT"].y) == pytest.approx([0.60, 0.75])
    assert list(found["training, seconds"].y) == pytest.approx([8.0, 22.0])
    assert list(found["weights, MB"].y) == pytest.approx([1.2, 3.0])


@pytest.mark.slow
def test_a_size_of_several_runs_has_an_interval(runs) -> None:
    made, inputs = runs(count=4, change=better)
    costs = [COSTS[0], COSTS[0], COSTS[1], COSTS[1]]
    several = ComparedRuns(load([run | {"pm": cost} for run, cost in zip(made, costs, strict=True)], inputs))
    worth, _ = pm_size(several) or []
    assert isinstance(worth, Lines)
    line = worth.panels[0].lines[0]
    half = 12.706 * 0.02 / 2**0.5 / 2**0.5  # Student's t of one degree, the deviation of two values .02 apart
    assert list(line.y) == pytest.approx([0.81, 0.85])
    assert list(line.low or []) == pytest.approx([0.81 - half, 0.85 - half], abs=1e-4)
    assert list(line.high or []) == pytest.approx([0.81 + half, 0.85 + half], abs=1e-4)
    single, _ = pm_size(of(runs, COSTS)) or []
    assert isinstance(single, Lines) and single.panels[0].lines[0].low is None, "of one size there is one run"


@pytest.mark.slow
def test_one_size_or_none_known_is_no_figure(runs) -> None:
    assert pm_size(of(runs, [None, None, None])) is None
    assert pm_size(of(runs, [COSTS[1], COSTS[2], None])) is None
    made, inputs = runs(count=3)
    assert pm_size(ComparedRuns(load(made, inputs))) is None, "as runs are that were read before"


@pytest.mark.slow
def test_the_page_has_them(runs) -> None:
    data = of(runs, COSTS)
    html = render(data, sections(data), {})
    assert '"pm_size_worth"' in html and '"pm_size_cost"' in html
