"""The λ that serves weights: against known optima, brute force, and simulated fronts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from morlaif.steer.search import Space, serve
from morlaif.steer.simplex import grid, weights

HOW = {"seed": 0, "resamples": 200, "confidence": 0.95}


def shares(points: list[tuple[int, ...]]) -> np.ndarray:
    return np.array([weights(point) for point in points])


@given(st.integers(2, 4), st.integers(1, 6), st.integers(0, 10_000))
def test_the_best_of_a_linear_front_is_a_corner(objectives: int, steps: int, seed: int) -> None:
    points = grid(objectives, steps)
    slope = np.random.default_rng(seed).normal(size=objectives)
    best = Space(points).best(shares(points) @ slope)
    assert best == tuple(float(k == slope.argmax()) for k in range(objectives))


@pytest.mark.slow
@given(st.integers(2, 4), st.integers(2, 6), st.integers(0, 10_000))
def test_a_quadratic_front_is_given_back_everywhere(objectives: int, steps: int, seed: int) -> None:
    rng, points = np.random.default_rng(seed), grid(objectives, steps)
    slope, curve = rng.normal(size=objectives), rng.normal(size=(objectives, objectives))

    def value(x: np.ndarray) -> float:
        return float(slope @ x + x @ curve @ x)

    space = Space(points)
    means = np.array([value(x) for x in shares(points)])
    for x in rng.dirichlet([1.0] * objectives, size=5):
        assert space.at(tuple(x)) @ means == pytest.approx(value(x), abs=1e-8)
        assert space.at(tuple(x)).sum() == pytest.approx(1)
    for p, point in enumerate(points):
        assert space.at(weights(point)) == pytest.approx(np.eye(len(points))[p], abs=1e-9)


@pytest.mark.parametrize(("objectives", "steps"), [(2, 4), (2, 8), (3, 4)])
def test_the_top_between_points_is_that_of_brute_force(objectives: int, steps: int) -> None:
    """On concave fronts whose top lies within half a step of the best point, so that the search may reach it."""
    rng, points, reached = np.random.default_rng(1), grid(objectives, steps), 0
    fine = shares(grid(objectives, 60))
    for _ in range(40):
        top, root = rng.dirichlet([2.0] * objectives), rng.normal(size=(objectives, objectives))
        curve = root @ root.T + 0.1 * np.eye(objectives)
        values = [-float((x - top) @ curve @ (x - top)) for x in shares(points)]
        found = np.array(Space(points).best(np.array(values)))
        assert found.min() >= 0 and found.sum() == pytest.approx(1)
        centre = shares(points)[int(np.argmax(values))]
        near = fine[np.abs(fine - centre).max(axis=1) <= 0.5 / steps + 1e-9]
        brute = max(-float((x - top) @ curve @ (x - top)) for x in near)
        assert -float((found - top) @ curve @ (found - top)) >= brute - 1e-9
        if np.abs(top - centre).max() < 0.5 / steps:
            assert found == pytest.approx(top, abs=2e-3 / steps * 4)
            reached += 1
    assert reached > 5


def test_a_convex_front_is_not_left() -> None:
    points = grid(2, 4)
    assert Space(points).best(np.array([1.0, 0.2, 0.0, 0.2, 0.9])) == (1.0, 0.0)
    assert Space(points).best(np.array([0.0, 0.5, 0.5, 0.8, 0.5])) not in [weights(point) for point in points]


def soup(prompts: int, seed: int) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """A front (P, N, 2) of 1 - (1 - λ)² and 1 - λ: at weights w its top is λ = 1 - w₂ / 2w₁."""
    points = grid(2, 10)
    first = shares(points)[:, :1]
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 0.5, size=(prompts, 2)) + rng.normal(0, 0.003, size=(11, prompts, 2))
    return points, np.concatenate([1 - (1 - first) ** 2, 1 - first], axis=1)[:, None, :] + noise


def test_the_best_of_a_curved_front_is_known_and_searching_pays() -> None:
    points, values = soup(60, 0)
    found = serve(lambda w: values @ np.array(w), points, (0.75, 0.25), **HOW)
    assert found.shares == pytest.approx((5 / 6, 1 / 6), abs=0.01)
    gain = 0.75 * (1 / 16 - 1 / 36) + 0.25 * (1 / 6 - 1 / 4)
    assert found.gain.value == pytest.approx(gain, abs=0.001) and found.gain.low > 0
    assert found.worth - found.plain == pytest.approx(gain, abs=0.001)
    assert found.measured == (8, 2) and all(one.low <= one.value <= one.high for one in found.intervals)
    assert found.intervals[0].low < 5 / 6 < found.intervals[0].high


@pytest.mark.slow
def test_where_the_front_tells_nothing_the_gain_is_none() -> None:
    """Pure noise: what was chosen looks better on the prompts that chose it, and is not on others."""
    covered, seen, looks = 0, [], []
    for seed in range(60):
        noise = np.random.default_rng(seed).normal(size=(9, 50))
        found = serve(lambda w, noise=noise: noise, grid(2, 8), (0.5, 0.5), **HOW | {"resamples": 50})
        covered += found.gain.low <= 0 <= found.gain.high
        seen.append(found.gain.value)
        looks.append(found.worth - found.plain)
    assert covered >= 48 and abs(np.mean(seen)) < 0.05 < np.mean(looks)


@pytest.mark.slow
def test_weights_that_are_themselves_uncertain_widen_the_choice() -> None:
    points, values = soup(60, 0)
    other = np.random.default_rng(0).dirichlet([15.0, 5.0], size=HOW["resamples"])
    sure = serve(lambda w: values @ np.array(w), points, (0.75, 0.25), **HOW)
    unsure = serve(lambda w: values @ np.array(w), points, (0.75, 0.25), [tuple(row) for row in other], **HOW)
    assert unsure.shares == sure.shares and unsure.gain == sure.gain
    assert unsure.intervals[0].high - unsure.intervals[0].low > 3 * (sure.intervals[0].high - sure.intervals[0].low)


def test_one_prompt_cannot_choose_and_measure() -> None:
    with pytest.raises(ValueError, match="two are the least"):
        serve(lambda w: np.zeros((3, 1)), grid(2, 2), (0.5, 0.5), **HOW)
