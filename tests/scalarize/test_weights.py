"""Frozen statistics and weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import optimize
from scipy.special import expit

from morlaif.errors import UserError
from morlaif.presets import preset
from morlaif.scalarize.settings import WeightsSettings
from morlaif.scalarize.weights import frozen_statistics, regress, signed, unit

CONF = Path(__file__).parents[2] / "conf"
NAMES = ["a", "b", "c"]
TRUE = np.array([0.8, -0.3, 0.0])


def sample(n: int, seed: int = 0, scale=(1.0, 4.0, 0.1)):
    rng = np.random.default_rng(seed)
    difference = rng.normal(size=(n, 3)) * np.array(scale)
    label = (rng.random(n) < expit(difference @ (TRUE / np.array(scale)))).astype(float)
    return difference, label


def test_regression_finds_what_made_the_labels() -> None:
    difference, label = sample(40_000)
    fit = regress(difference, label, NAMES)
    np.testing.assert_allclose(fit.standardized, TRUE, atol=0.05)
    np.testing.assert_allclose(np.array(fit.raw) * [1, 4, 0.1], TRUE, atol=0.05)
    low, high = np.array(fit.low), np.array(fit.high)
    assert (low < fit.raw).all() and (fit.raw < high).all()
    assert fit.p_value[0] < 1e-6 and fit.p_value[2] > 1e-3


def newton(x, y):
    """Iteratively reweighted least squares, by hand: coefficients and their standard errors."""
    b = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ b))
        information = sum(pi * (1 - pi) * np.outer(xi, xi) for pi, xi in zip(p, x, strict=True))
        step = np.linalg.solve(information, x.T @ (y - p))
        b = b + step
        if np.abs(step).max() < 1e-14:
            break
    return b, np.sqrt(np.diag(np.linalg.inv(information)))


@pytest.mark.parametrize("soft", [False, True])
def test_regression_agrees_with_newton_by_hand_and_with_a_search_without_derivatives(soft: bool) -> None:
    difference, label = sample(300)
    if soft:
        label = 0.1 + 0.8 * label
    fit = regress(difference, label, NAMES)
    coefficient, error = newton(difference, label)
    np.testing.assert_allclose(fit.raw, coefficient, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(fit.low, coefficient - 1.959963984540054 * error, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(fit.high, coefficient + 1.959963984540054 * error, rtol=1e-6, atol=1e-8)
    spread = np.sqrt((difference**2).mean(0))
    np.testing.assert_allclose(fit.standardized, coefficient * spread, rtol=1e-6, atol=1e-8)

    def surprise(b):
        p = expit((difference / spread) @ b)
        return -(label * np.log(p) + (1 - label) * np.log1p(-p)).mean()

    blind = optimize.minimize(surprise, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-15})
    np.testing.assert_allclose(blind.x, fit.standardized, atol=1e-5)
    assert fit.log_loss == pytest.approx(blind.fun, rel=1e-9)


def test_the_sign_is_reported_only_where_the_interval_tells() -> None:
    """Humans who reward one principle, punish another and do not see the third."""
    fit = regress(*sample(4000), NAMES)
    assert fit.sign == ["reward", "punish", "undecided"] == fit.as_dict()["sign"]


def test_regression_does_not_care_which_response_is_first() -> None:
    difference, label = sample(400)
    turn = np.random.default_rng(1).random(400) < 0.5
    turned = np.where(turn[:, None], -difference, difference), np.where(turn, 1 - label, label)
    np.testing.assert_allclose(regress(*turned, NAMES).raw, regress(difference, label, NAMES).raw, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_intervals_cover_what_they_promise() -> None:
    """2,000 data sets of 200 pairs: nominal 95 % must hold in 93-97 %, for each coefficient."""
    hits = np.zeros(3)
    for seed in range(2000):
        fit = regress(*sample(200, seed, scale=(1, 1, 1)), NAMES)
        hits += (np.array(fit.low) <= TRUE) & (np.array(fit.high) >= TRUE)
    assert (hits / 2000 > 0.93).all() and (hits / 2000 < 0.97).all(), hits / 2000


def test_rows_that_stand_twelve_times_would_feign_certainty() -> None:
    """Coefficients stay, intervals shrink by √12: why each labelled pair must be a row once."""
    difference, label = sample(300)
    once, copied = regress(difference, label, NAMES), regress(np.tile(difference, (12, 1)), np.tile(label, 12), NAMES)
    np.testing.assert_allclose(copied.raw, once.raw, rtol=1e-5, atol=1e-7)
    width = lambda fit: np.array(fit.high) - np.array(fit.low)  # noqa: E731
    np.testing.assert_allclose(width(once) / width(copied), np.sqrt(12), rtol=1e-5)


def test_what_cannot_be_regressed() -> None:
    difference, label = sample(200)
    separable = (difference[:, 0] > 0).astype(float)
    with pytest.raises(UserError, match="no finite, unique optimum"):
        regress(difference, separable, NAMES)
    with pytest.raises(UserError, match="no finite, unique optimum"):
        regress(np.column_stack([difference[:, 0], difference[:, 0]]), label, ["a", "b"])
    with pytest.raises(UserError, match="2 human-labelled pairs cannot fix 3"):
        regress(difference[:2], label[:2], NAMES)
    with pytest.raises(UserError, match="'b' scores both responses"):
        regress(difference * np.array([1, 0, 1]), label, NAMES)


def test_raw_coefficients_keep_their_ranking_on_normalised_scores() -> None:
    rng = np.random.default_rng(0)
    raw, scale = rng.normal(size=3), rng.uniform(0.1, 5, size=3)
    scores = rng.normal(size=(50, 3)) * scale
    weights = raw * unit(raw, scale, NAMES, [])
    assert np.abs(weights).mean() == pytest.approx(1)
    ratio = ((scores / scale) @ weights) / (scores @ raw)
    np.testing.assert_allclose(ratio, ratio[0])


def test_signs_and_zeros() -> None:
    direction, weight = signed(np.array([2.0, -0.5, 1.0]), NAMES, ["c"])
    assert direction.tolist() == [1, -1, 1] and weight.tolist() == [2, 0.5, 0]


def settings(**change) -> WeightsSettings:
    return WeightsSettings(**preset("weights", "equal") | change)


def test_which_principles_count_is_known_before_any_model_is_trained() -> None:
    assert settings(zero=["b", "other"]).counting(NAMES) == ["a", "c"]
    assert settings(zero=["b"]).counting(["b"]) == ["b"]  # of one model there is nothing to leave out
    given = settings(method="given", values={"a": 1.0, "b": 0.0, "c": -2.0})
    assert given.counting(NAMES) == ["a", "c"] and given.given(["c", "a"]) == [-2.0, 1.0]
    with pytest.raises(UserError, match="no weight for 'd'"):
        given.counting([*NAMES, "d"])
    with pytest.raises(UserError, match=r"every principle of the run \(a, b\) has weight zero"):
        settings(zero=["a", "b"]).counting(["a", "b"])


def test_statistics_are_frozen_or_refused() -> None:
    scores = np.array([[1.0, 5.0], [3.0, 5.0]])
    mean, scale = frozen_statistics(scores[:, :1], ["a"])
    assert mean.tolist() == [2] and scale.tolist() == [1]
    with pytest.raises(UserError, match="'b' gives every one of 2 responses the same score"):
        frozen_statistics(scores, ["a", "b"])
