"""Grids on the simplex."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morlaif.steer.simplex import corner, grid, name_of, reduced, weights


def test_two_objectives_in_eight_steps_have_nine_points():
    points = grid(2, 8)
    assert points == [(8 - k, k) for k in range(9)]
    assert [weights(point)[1] for point in points] == [k / 8 for k in range(9)]


@given(st.integers(1, 4), st.integers(1, 6))
def test_a_grid_has_every_composition_once(objectives, steps):
    points = grid(objectives, steps)
    every = {p for p in itertools.product(range(steps + 1), repeat=objectives) if sum(p) == steps}
    assert len(points) == len(set(points)) == math.comb(steps + objectives - 1, objectives - 1)
    assert set(points) == every
    assert all(math.isclose(sum(weights(point)), 1) for point in points)
    corners = [reduced(point) for point in points if max(point) == steps]
    assert corners == [corner(objectives, k) for k in range(objectives)]


@given(st.lists(st.integers(0, 5), min_size=2, max_size=4).filter(any), st.integers(1, 5))
def test_a_point_is_called_the_same_in_every_grid(point, times):
    names = [f"p{k}" for k in range(len(point))]
    finer = tuple(part * times for part in point)
    assert name_of(finer, names) == name_of(tuple(point), names)
    assert weights(reduced(finer)) == pytest.approx(weights(tuple(point)))


def test_names_say_what_weighs():
    assert name_of((8, 0), ["detail", "conciseness"]) == "detail"
    assert name_of((2, 6), ["detail", "conciseness"]) == "detail1-conciseness3"
    assert name_of((2, 0, 2), ["a", "b", "c"]) == "a1-c1"


def test_a_grid_of_nothing_is_refused():
    with pytest.raises(ValueError, match="0 and 4"):
        grid(0, 4)
