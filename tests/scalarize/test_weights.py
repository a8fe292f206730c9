"""Frozen statistics and weights."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from morlaif.errors import UserError
from morlaif.scalarize.weights import from_raw, frozen_statistics, given_weights, regress, signed

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


def test_regression_solves_its_normal_equations() -> None:
    difference, label = sample(300)
    fit = regress(difference, label, NAMES)
    residual = difference.T @ (label - expit(difference @ np.array(fit.raw)))
    np.testing.assert_allclose(residual, 0, atol=1e-3)


def test_regression_does_not_care_which_response_is_first() -> None:
    difference, label = sample(400)
    turn = np.random.default_rng(1).random(400) < 0.5
    turned = np.where(turn[:, None], -difference, difference), np.where(turn, 1 - label, label)
    np.testing.assert_allclose(regress(*turned, NAMES).raw, regress(difference, label, NAMES).raw, rtol=1e-4, atol=1e-6)


def test_intervals_cover() -> None:
    hits = 0
    for seed in range(60):
        fit = regress(*sample(300, seed, scale=(1, 1, 1)), NAMES)
        hits += fit.low[0] <= TRUE[0] <= fit.high[0]
    assert 50 <= hits <= 60


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
    weights = from_raw(raw, scale, NAMES, [])
    assert np.abs(weights).mean() == pytest.approx(1)
    ratio = ((scores / scale) @ weights) / (scores @ raw)
    np.testing.assert_allclose(ratio, ratio[0])


def test_signs_and_zeros() -> None:
    direction, weight = signed(np.array([2.0, -0.5, 1.0]), NAMES, ["c"])
    assert direction.tolist() == [1, -1, 1] and weight.tolist() == [2, 0.5, 0]
    with pytest.raises(UserError, match="no weight for 'detail'"):
        given_weights({"helpfulness": 1.0}, ["helpfulness", "detail"])


def test_statistics_are_frozen_or_refused() -> None:
    scores = np.array([[1.0, 5.0], [3.0, 5.0]])
    mean, scale = frozen_statistics(scores[:, :1], ["a"])
    assert mean.tolist() == [2] and scale.tolist() == [1]
    with pytest.raises(UserError, match="'b' gives every one of 2 responses the same score"):
        frozen_statistics(scores, ["a", "b"])
