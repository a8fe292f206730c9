"""Fronts by hand and hypervolume against `moocore`."""

from __future__ import annotations

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morlaif.evaluation.pareto import fronts, hypervolume, multi_objective_view, non_dominated


def test_non_dominated_by_hand():
    points = [[0, 3], [1, 2], [1, 1], [3, 0], [3, 0], [0, 0]]
    assert non_dominated(points).tolist() == [True, True, False, True, True, False], "equal points do not beat another"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 6), st.integers(0, 10_000))
def test_hypervolume_equals_moocore(count, size, seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 1, (count, size)).round(1)  # ties and duplicates among them
    reference = rng.normal(-1, 0.3, size)
    expected = moocore.hypervolume(points, ref=reference, maximise=True)
    assert hypervolume(points, reference) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_hypervolume_of_twelve_principles_equals_moocore():
    points = np.random.default_rng(0).normal(0.5, 0.6, (9, 12))
    expected = moocore.hypervolume(points, ref=np.full(12, -2.0), maximise=True)
    assert hypervolume(points, np.full(12, -2.0)) == pytest.approx(expected, rel=1e-9)


def test_hypervolume_by_hand():
    assert hypervolume([[2, 1], [1, 2]], [0, 0]) == 3
    assert hypervolume([[2, 1], [1, 2], [1, 1], [5, -1]], [0, 0]) == 3, "dominated, and below the reference"
    assert hypervolume(np.zeros((0, 2)), [0, 0]) == 0


def test_fronts_are_those_of_moocore_in_order():
    rng = np.random.default_rng(1)
    points = {f"p{i}": rng.normal(size=3) for i in range(8)}
    found = fronts(("a", "b", "c"), points)
    assert set(found) == {"a|b", "a|c", "b|c"}
    for key, columns in {"a|b": [0, 1], "a|c": [0, 2], "b|c": [1, 2]}.items():
        x = np.array(list(points.values()))[:, columns]
        kept = moocore.is_nondominated(x, maximise=True)
        assert set(found[key]) == {name for name, k in zip(points, kept, strict=True) if k}
        first = [points[name][columns[0]] for name in found[key]]
        assert first == sorted(first, reverse=True)


def test_the_view_by_hand():
    view = multi_objective_view(("a", "b"), {"sft": [0.0, 0.0], "multi": [1.0, 0.5], "greedy": [3.0, -2.5]}, -2.0)
    assert view.hypervolume == {"sft": 4.0, "multi": 7.5, "greedy": 0.0}
    assert view.relative == pytest.approx({"sft": 1.0, "multi": 7.5**0.5 / 2, "greedy": 0.0})
    assert view.front == ["multi", "greedy"] and view.fronts == {"a|b": ["greedy", "multi"]}
    assert view.together == 7.5 and view.added == {"sft": 0.0, "multi": 3.5, "greedy": 0.0}
