"""Metrics of fronts against hand computation and brute force."""

from __future__ import annotations

import itertools

import moocore
import numpy as np
import pytest
from front_cases import HOW, values_of, way
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from morlaif.evaluation import fronts
from morlaif.evaluation.pareto import hypervolume

COORDINATES = st.floats(-3, 3, allow_nan=False, width=32).map(lambda x: round(x, 3))


def points_of(most: int = 6, width: int = 2):
    return st.integers(2, most).flatmap(lambda n: arrays(float, (n, width), elements=COORDINATES))


def test_spacing_by_hand():
    # nearest others at 1, 1 and 3: deviation sqrt(((1 - 5/3)^2 * 2 + (3 - 5/3)^2) / 2)
    assert fronts.spacing([[0, 0], [1, 0], [4, 0]]) == pytest.approx(((4 / 9 * 2 + 16 / 9) / 2) ** 0.5)
    assert fronts.spacing([[0, 2], [1, 1], [2, 0]]) == 0
    assert fronts.spacing([[1, 1]]) is None


@given(points_of())
def test_spacing_by_brute_force(points):
    nearest = [
        min(sum(abs(a - b) for a, b in zip(p, q, strict=True)) for j, q in enumerate(points) if j != i)
        for i, p in enumerate(points)
    ]
    mean = sum(nearest) / len(nearest)
    expected = (sum((mean - d) ** 2 for d in nearest) / (len(nearest) - 1)) ** 0.5
    assert fronts.spacing(points) == pytest.approx(expected, abs=1e-9)


def test_epsilon_by_hand():
    assert fronts.epsilon([[1, 1]], [[2, 0], [0, 3]]) == 2
    assert fronts.epsilon([[2, 3]], [[2, 0], [0, 3]]) == 0
    assert fronts.epsilon([[3, 4]], [[2, 3]]) == -1


@pytest.mark.slow
@given(points_of(), points_of(), st.floats(-1, 1))
def test_epsilon_is_the_least_rise_that_covers(points, reference, less):
    found = fronts.epsilon(points, reference)
    slow = max(min(max(r - a for a, r in zip(p, q, strict=True)) for p in points) for q in reference)
    assert found == pytest.approx(slow)
    covered = [any((p + found + 1e-9 >= q).all() for p in points) for q in reference]
    assert all(covered)
    assert found == pytest.approx(moocore.epsilon_additive(points, ref=reference, maximise=True))
    assert fronts.epsilon(points, points) <= 0
    assert fronts.epsilon(points + less, reference) == pytest.approx(found - less)


@given(arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 6), st.just(2)), elements=COORDINATES))
def test_volumes_at_once_are_those_one_by_one(sets):
    reference = np.array([-0.5, -1.0])
    assert fronts.volumes(sets, reference) == pytest.approx([hypervolume(own, reference) for own in sets])


@given(points_of(5, 3))
def test_volumes_of_three_coordinates_by_counting_cells(points):
    """A grid of all coordinates: cells below a point are covered."""
    reference = np.full(3, -1.0)
    above = np.maximum(points, reference)
    edges = [np.unique(np.append(above[:, k], -1.0)) for k in range(3)]
    total = 0.0
    for cell in itertools.product(*map(itertools.pairwise, edges)):
        low, high = np.array(cell).T
        if any((p >= high).all() for p in points):
            total += float((high - low).prod())
    assert fronts.volumes(points[None], reference)[0] == pytest.approx(total)


def test_height_above_the_chord_by_hand():
    # what a prototype of the toy world gave: .74 more detail than the chord at one half, and .13 more conciseness
    found = fronts.above_chord([[2.94, 0.19], [2.25, 0.70], [0.08, 0.94]], [[1, 0], [0.5, 0.5], [0, 1]])
    assert found == pytest.approx(np.array([[0, 0], [0.74, 0.135], [0, 0]]))


def test_a_front_without_its_corners_has_no_chord():
    with pytest.raises(ValueError, match="objective 1"):
        fronts.above_chord([[1, 0], [0.5, 0.5]], [[1, 0], [0.5, 0.5]])


def test_the_box_of_the_corners():
    weights = [[1, 0], [0.5, 0.5], [0, 1]]
    assert fronts.box_volume([[4, 0], [3, 2], [0, 2]], weights) == pytest.approx(0.75)
    many = np.linspace(0, 1, 1001)
    chord = np.stack([1 - many, many], axis=1)
    assert fronts.box_volume(chord, chord) == pytest.approx(0.5, abs=1e-3)
    assert fronts.box_volume([[1, 1], [1, 1], [1, 1]], weights) is None


WEIGHTS = np.array([[1.0, 0], [0.5, 0.5], [0, 1.0]])


def test_a_front_knows_what_is_dominated_and_how_much_it_covers():
    values = values_of([[3, 0], [-0.5, -0.5], [0, 2]])
    front = way(values, WEIGHTS, "soup")
    assert [point.dominated for point in front.points] == [False, True, False]
    assert front.hypervolume.value == pytest.approx(5 * 2 + 2 * 2)
    assert front.hypervolume.low < front.hypervolume.value < front.hypervolume.high
    assert front.points[1].above_chord == pytest.approx({"p0": -2.0, "p1": -1.5})
    assert front.spacing == 0  # of the two that are left


def test_one_policy_for_all_weights_has_no_corners():
    front = way(values_of([[3, 0], [2, 2], [0, 3]]), WEIGHTS, "conditioned")
    assert front.box is None and front.points[1].above_chord is None
    assert front.hypervolume.value == pytest.approx(20)


def test_ways_are_measured_by_direct_training_on_the_same_prompts():
    values = {"direct": values_of([[3, 0], [2, 2], [0, 3]]), "soup": values_of([[3, 0], [1, 2], [0, 3]])}
    ways = {name: way(own, WEIGHTS, name, 900 if name == "direct" else 200) for name, own in values.items()}
    found = fronts.against(ways, values, **HOW)["soup"]
    # above (-2, -2): direct 5·2 + 4·2 + 2·1, soup 5·2 + 3·2 + 2·1
    assert found.relative.value == pytest.approx(18 / 20)
    assert found.relative.low < 18 / 20 < found.relative.high < 1
    assert found.epsilon == pytest.approx(1)
    assert found.cost == pytest.approx(2 / 9)
    assert fronts.against({"soup": ways["soup"]}, values, **HOW) == {}


def test_equal_fronts_are_equal_without_doubt():
    values = values_of([[3, 0], [2, 2], [0, 3]])
    ways = {name: way(values, WEIGHTS, name) for name in ("direct", "soup")}
    found = fronts.against(ways, dict.fromkeys(ways, values), **HOW)["soup"]
    assert (found.relative.value, found.relative.low, found.relative.high) == pytest.approx((1, 1, 1))
    assert found.epsilon == pytest.approx(0)
